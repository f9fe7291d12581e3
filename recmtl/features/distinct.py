"""The distinct ids of a batch, and where each of its ids stands among them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Distinct(NamedTuple):
    """The distinct ids of a batch in slots.

    Args:
        ids: The id of each slot, int64 ``[slots]``.
        inverse: The slot of each id, int64, shaped like the ids.
        source: The slot that each one repeats, int64 ``[slots]``: spare slots repeat the last one in use, all others
            themselves. ``None`` where there are no spare slots.
    """

    ids: Tensor
    inverse: Tensor
    source: Tensor | None = None


def distinct(ids: Tensor) -> Distinct:
    """Find the distinct ids: on a CPU with as many slots, elsewhere with `padded`, as the host would have to wait."""
    if ids.device.type != "cpu":
        return padded(ids)
    index, inverse = torch.unique(ids, return_inverse=True)
    return Distinct(index.long(), inverse)


def padded(ids: Tensor) -> Distinct:
    """Find the distinct ids with a slot for each id, used or spare: no shape depends on a value.

    Example:
        >>> slots, inverse, source = padded(torch.tensor([7, 3, 7]))
        >>> slots, inverse, source
        (tensor([3, 7, 7]), tensor([1, 0, 1]), tensor([0, 1, 1]))
    """
    ordered, order = ids.flatten().long().sort()  # [N]
    rises = torch.diff(ordered, prepend=ordered[:1]) > 0
    slots = rises.cumsum(0)  # [N], of the ordered ids
    inverse = torch.empty_like(slots).scatter_(0, order, slots)
    index = ordered[-1:].repeat(len(slots)).scatter_(0, slots, ordered)  # equal ids write the same
    source = torch.arange(len(slots), device=ids.device).minimum(slots[-1])
    return Distinct(index, inverse.view(ids.shape), source)
