"""Neighbouring shared tensors merged into one, so that a GPU works on all of them with few launches."""

from collections.abc import Sequence
from functools import cache
from itertools import groupby

import torch
from torch import Tensor

from recmtl.balance.shared import Measured, SharedTensor

ROW = 64  # elements: the sizes of layers are usually multiples of it


def merge_neighbours(measured: Sequence[Measured]) -> list[Measured]:
    """Return the shared tensors with neighbours merged where that is possible; the order of parts stays."""
    runs = [list(run) for _, run in groupby(measured, key=_kind)]
    return [one for run in runs for one in ([_merged(run)] if len(run) > 1 and _kind(run[0]) else run)]


def _kind(measured: Measured) -> torch.dtype | None:
    """Return the type of tensors that can be merged: with all gradients, and with parts of whole rows; else None."""
    tensor, parts, part_of_row, _, exchanged = measured.shared
    rows = part_of_row is None and exchanged is None and tensor.numel() % (parts * ROW) == 0 and tensor.numel() > 0
    whole = rows and not tensor.is_complex() and all(gradient is not None for gradient in measured.gradients)
    return tensor.dtype if whole else None


def _merged(run: Sequence[Measured]) -> Measured:
    tensors = [measured.shared.tensor for measured in run]
    rows = tuple(
        t.numel() // (m.shared.parts * ROW) for t, m in zip(tensors, run, strict=True) for _ in range(m.shared.parts)
    )
    part_of_row, bounds = _rows_of_parts(rows, tensors[0].device)
    # It stands for the tensors by its shape and its gradient alone, and takes no memory.
    whole = tensors[0].detach().new_empty(1).expand(len(part_of_row), ROW)
    by_task = zip(*(measured.gradients for measured in run), strict=True)
    gradients = [torch.cat([g.flatten() for g in task if g is not None]).view(-1, ROW) for task in by_task]
    return Measured(SharedTensor(whole, len(rows), part_of_row, bounds), gradients, tensors)


@cache  # a copy from the host would break the record of a CUDA graph, which reads these for as long as it lives
def _rows_of_parts(rows: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the part of each row and the bounds of parts with so many rows each."""
    sizes = torch.tensor(rows)
    bounds = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    return torch.arange(len(rows)).repeat_interleave(sizes).to(device), bounds.to(device)
