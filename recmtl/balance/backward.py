"""Losses as values, and one backward pass of their weighted sum."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def detached(losses: Sequence[Tensor]) -> Tensor:
    """The losses' values in one tensor `[K]` of at least float32, without their graph."""
    values = torch.stack([loss.detach() for loss in losses])
    return values.to(torch.promote_types(values.dtype, torch.float32))


def backward_weighted(
    losses: Sequence[Tensor], weights: Tensor | Sequence[Tensor], without: Sequence[Tensor] = ()
) -> None:
    """Runs one backward pass of the weighted sum of the losses that depend on anything.

    A weight of exactly 0 starts a task's pass from a zero gradient, whatever its loss is.

    Args:
        losses: K scalars; or tensors of any shape, with weights of theirs.
        weights: What each is multiplied by, `[K]`.
        without: Leaves whose `.grad` is left alone, and not computed.
    """
    pairs = zip(losses, weights, strict=True)
    reached = [(loss, weight.to(loss.dtype)) for loss, weight in pairs if loss.requires_grad]
    if not reached:
        return
    inputs = None
    if without:
        left_out = {id(tensor) for tensor in without}
        inputs = [leaf for leaf in leaves_of([loss for loss, _ in reached]) if id(leaf) not in left_out]
        if not inputs:
            return
    torch.autograd.backward([loss for loss, _ in reached], [weight for _, weight in reached], inputs=inputs)


def leaves_of(losses: Sequence[Tensor]) -> list[Tensor]:
    """The leaves that the losses' graphs end in."""
    leaves: list[Tensor] = []
    seen: set[Any] = set()
    nodes: list[Any] = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    leaves += [loss for loss in losses if loss.grad_fn is None]
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            leaves.append(node.variable)
        nodes += [following for following, _ in node.next_functions if following is not None]
    return leaves
