"""Batches cut from a matrix in memory, one gather each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recmtl.data.encode import IDS, LABELS, NUMERIC, WEIGHT
from recmtl.data.prepared import Rows


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model reads and what its losses are measured on.

    Args:
        ids: int32 ``[B, id columns]``, each feature's own indices; -1 pads a list.
        numeric: float32 ``[B, numeric features]``.
        labels: float32 ``[B, labels]``, NaN where a label is missing.
        weight: float32 ``[B]``, or ``None`` where every row counts the same.
    """

    ids: Tensor
    numeric: Tensor
    labels: Tensor
    weight: Tensor | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]


def fits(matrix: Tensor, device: torch.device) -> bool:
    """Whether a matrix may lie on a device: it takes no more than half of the memory that is free there."""
    return device.type != "cuda" or matrix.nbytes <= torch.cuda.mem_get_info(device)[0] // 2


class Loader:
    """Cuts rows into batches; all rows lie on the device as one matrix where they fit, else in the host's memory.

    Args:
        rows: The rows.
        batch_size: The number of rows of a batch. The last one is shorter; a single row left over joins the batch
            before it, because batch normalisation cannot train on one row.
        device: Where the rows lie and the batches are made.
        seed: Shuffles the rows, anew in every epoch, on the device where they lie; ``None`` keeps their order.

    Raises:
        ValueError: `batch_size` is below 1.
    """

    def __init__(
        self, rows: Rows, batch_size: int, device: torch.device | str = "cpu", seed: int | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self._device = torch.device(device)
        matrix = rows.packed()
        self._matrix = matrix.to(self._device) if fits(matrix, self._device) else matrix.pin_memory()
        self._widths = rows.widths

    def __len__(self) -> int:
        return len(self._starts())

    def epoch(self, number: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch; equal seed and number give the same order."""
        order = None if self.seed is None else self._order(self.seed, number)
        starts = self._starts()
        for start, end in itertools.pairwise([*starts, len(self.rows)]):
            if order is None:
                yield self._cut(self._matrix[start:end])
            else:
                yield self._cut(self._matrix.index_select(0, order[start:end]))

    def _starts(self) -> range:
        rows = len(self.rows)
        return range(0, rows - 1 if rows % self.batch_size == 1 and rows > 1 else rows, self.batch_size)

    def _order(self, seed: int, number: int) -> Tensor:
        device = self._matrix.device
        generator = torch.Generator(device).manual_seed((seed << 20) + number)
        return torch.randperm(len(self.rows), generator=generator, device=device)

    def _cut(self, packed: Tensor) -> Batch:
        packed = packed.to(self._device, non_blocking=True)
        parts = dict(zip(self._widths, torch.split(packed, list(self._widths.values()), dim=1), strict=True))
        return Batch(
            ids=parts[IDS],
            numeric=parts[NUMERIC].view(torch.float32),
            labels=parts[LABELS].view(torch.float32),
            weight=parts[WEIGHT].view(torch.float32)[:, 0] if WEIGHT in parts else None,
        )
