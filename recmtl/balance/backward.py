"""One backward pass of a weighted sum of losses, and the leaves of its graph."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def backward_weighted(
    losses: Sequence[Tensor], weights: Tensor | Sequence[Tensor], without: Sequence[Tensor] = ()
) -> None:
    """Run one backward pass of the weighted sum of the losses that have a graph.

    A weight of exactly 0 starts a task's pass from a zero gradient, even if its loss is not finite.

    Args:
        losses: K scalars; or tensors of any shape, with weights of the same shape.
        weights: The weight of each loss, `[K]`.
        without: Leaves whose gradient is not computed.
    """
    pairs = zip(losses, weights, strict=True)
    reached = [(loss, weight.to(loss.dtype)) for loss, weight in pairs if loss.requires_grad]
    if not reached:
        return
    inputs = None
    if without:
        excluded = {id(tensor) for tensor in without}
        inputs = [leaf for leaf in leaves_of([loss for loss, _ in reached]) if id(leaf) not in excluded]
        if not inputs:
            return
    torch.autograd.backward([loss for loss, _ in reached], [weight for _, weight in reached], inputs=inputs)


def leaves_of(losses: Sequence[Tensor]) -> list[Tensor]:
    """Return the leaves of the losses' graphs."""
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
