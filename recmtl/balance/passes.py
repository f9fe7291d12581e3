"""Losses as values, and one backward pass of their weighted sum."""

from collections.abc import Sequence

import torch
from torch import Tensor


def detached(losses: Sequence[Tensor]) -> Tensor:
    """The losses' values in one tensor `[K]` of at least float32, without their graph."""
    values = torch.stack([loss.detach() for loss in losses])
    return values.to(torch.promote_types(values.dtype, torch.float32))


def backward_weighted(losses: Sequence[Tensor], weights: Tensor) -> None:
    """Runs one backward pass of the weighted sum of the losses that depend on anything.

    A weight of exactly 0 starts a task's pass from a zero gradient, whatever its loss is.
    """
    pairs = zip(losses, weights.unbind(), strict=True)
    reached = [(loss, weight.to(loss.dtype)) for loss, weight in pairs if loss.requires_grad]
    if reached:
        torch.autograd.backward([loss for loss, _ in reached], [weight for _, weight in reached])
