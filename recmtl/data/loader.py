"""Batches cut from matrices in memory, one gather each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.data.encode import IDS, LABELS, NUMERIC, WEIGHT
from recmtl.data.memory import available_memory
from recmtl.data.prepared import Rows
from recmtl.data.windows import Window, cut, read_windows


@dataclass(frozen=True, slots=True)
class Batch:
    """What a model reads and what its losses are measured on.

    Args:
        ids: int32 ``[B, id columns]``, each feature's own indices; -1 pads a list.
        numeric: float32 ``[B, numeric columns]``, the features and then their missing indicators.
        labels: float32 ``[B, labels]``, NaN where a label is missing.
        weight: float32 ``[B]``, or ``None`` where every row counts the same.
        share: Where these rows lie in a batch that several processes share; ``None`` where they are all of it.
    """

    ids: Tensor
    numeric: Tensor
    labels: Tensor
    weight: Tensor | None = None
    share: Share | None = None

    @property
    def whole(self) -> Batch:
        """The batch that these rows are a share of, or all of."""
        return self.share.of if self.share else self

    def part(self, rank: int, ranks: int) -> Batch:
        """Give the rows of one of the processes that share this batch; one alone has all of it."""
        if ranks == 1:
            return self
        rows = slice(*(len(self) * place // ranks for place in (rank, rank + 1)))
        weight = None if self.weight is None else self.weight[rows]
        return Batch(self.ids[rows], self.numeric[rows], self.labels[rows], weight, Share(self, rows))

    def __len__(self) -> int:
        return self.labels.shape[0]


class Share(NamedTuple):
    """The rows of a batch that are one process's.

    Args:
        of: The whole batch.
        rows: Where they lie in it.
    """

    of: Batch
    rows: slice


def fits(matrix: Tensor, device: torch.device) -> bool:
    """Whether a matrix may lie on a device: it takes no more than half of the memory that is free there."""
    return device.type != "cuda" or matrix.nbytes <= torch.cuda.mem_get_info(device)[0] // 2


class Loader:
    """Cuts rows into batches; all rows lie on the device as one matrix where they fit, else in the host's memory.

    Rows that would fill more than half of the host's free memory are read window by window: a thread reads the next
    one ahead. The rows are then shuffled in two steps, blocks of neighbours over the windows and rows in a window.

    Args:
        rows: The rows.
        batch_size: The number of rows of a batch. The last one is shorter; a single row left over joins the batch
            before it, because batch normalisation cannot train on one row.
        device: Where the rows lie and the batches are made.
        seed: Shuffles the rows, anew in every epoch, on the device where they lie; ``None`` keeps their order.
        window: Rows held at a time, of which there are up to three; ``None`` decides by the memory that is free.
        rank: The place of this process among those that share each batch: of every batch it gets a stretch of rows.
        ranks: How many processes share it.

    Raises:
        ValueError: `batch_size` or `window` is below 1.
    """

    def __init__(
        self,
        rows: Rows,
        batch_size: int,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        window: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("window", window)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self._rank, self._ranks = rank, ranks
        self.window = window or default_window(rows)
        self._device = torch.device(device)
        self._widths = rows.widths
        self._matrix: Tensor | None = None
        if self.window >= len(rows):
            matrix = rows.packed()
            self._matrix = matrix.to(self._device) if fits(matrix, self._device) else matrix.pin_memory()

    def __len__(self) -> int:
        return len(self._starts())

    def epoch(self, number: int = 0, done: int = 0) -> Iterator[Batch]:
        """Give the batches of one epoch; equal seed, number and window give the same order.

        Args:
            number: The epoch's.
            done: How many batches to leave out at the beginning, which are not read.
        """
        starts = self._starts()[done:]
        if not starts:
            return
        bounds = itertools.pairwise([*starts, len(self.rows)])
        for packed in cut(self._windows(number, starts[0]), (end - start for start, end in bounds)):
            yield self._batch(packed).part(self._rank, self._ranks)

    def _starts(self) -> range:
        rows = len(self.rows)
        return range(0, rows - 1 if rows % self.batch_size == 1 and rows > 1 else rows, self.batch_size)

    def _windows(self, number: int, skip: int) -> Iterator[Window]:
        device = torch.device("cpu") if self._matrix is None else self._matrix.device
        generator = None
        if self.seed is not None:
            generator = torch.Generator(device).manual_seed((self.seed << 20) + number)
        if self._matrix is None:
            yield from read_windows(self.rows, self.window, generator, skip)
        elif generator is None:
            yield Window(self._matrix, None).after(skip)
        else:
            order = torch.randperm(len(self.rows), generator=generator, device=device)
            yield Window(self._matrix, order).after(skip)

    def _batch(self, packed: Tensor) -> Batch:
        packed = packed.to(self._device, non_blocking=True)
        parts = dict(zip(self._widths, torch.split(packed, list(self._widths.values()), dim=1), strict=True))
        return Batch(
            ids=parts[IDS],
            numeric=parts[NUMERIC].view(torch.float32),
            labels=parts[LABELS].view(torch.float32),
            weight=parts[WEIGHT].view(torch.float32)[:, 0] if WEIGHT in parts else None,
        )


def default_window(rows: Rows, processes: int = 1) -> int:
    """Give how many rows to hold at a time where several processes of one machine hold as many."""
    return rows_in(available_memory() // (2 * processes), rows)


def rows_in(memory: int, rows: Rows) -> int:
    """Give how many rows to hold at a time: all that there are, or up to a third of what the memory holds.

    A power of two, so that a little more or less of free memory does not give another order of the rows.
    """
    held = memory // (4 * sum(rows.widths.values()))
    return len(rows) if held >= len(rows) else 1 << max(1, held // 3).bit_length() - 1
