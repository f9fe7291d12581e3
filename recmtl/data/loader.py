"""Load prepared rows as batches: shuffled, on the device, from memory or window by window."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recmtl.balance.distributed import SINGLE_PROCESS, ProcessGroup
from recmtl.data.batch import Batch, Share
from recmtl.data.group_order import GroupOrder
from recmtl.data.row_order import BLOCK_ROWS, PIECE_ROWS, EpochOrder, Integers, KnownOrder, LaneOrder, ranges
from recmtl.data.staging import staged
from recmtl.data.store.format import IDS, LABELS, NUMERIC, TASK_WEIGHTS, WEIGHT
from recmtl.data.store.lists import IdLists
from recmtl.data.store.prepared import GROUPS, Rows
from recmtl.io.machine import available_memory
from recmtl.io.prefetch import prefetch
from recmtl.schema import SAMPLING_WEIGHT


class Loader:
    """Cuts rows into batches; all rows lie on the device as one matrix if they fit, else in the host's memory.

    From there a GPU gets each batch by a copy that runs while it works on the one before.

    Rows that would fill more than half of the host's free memory are read window by window: a thread reads the next
    one ahead. The rows are then shuffled in two steps, blocks of neighbours over the windows and rows in parts of a
    window, as `LaneOrder` says.

    Several processes read the rows from the memory map of their file, which those of a machine share, each its own rows
    alone. A batch has the same rows for any number of processes: only their order depends on it.

    Args:
        rows: The rows.
        batch_size: The number of rows of a batch. The last one is shorter; a single row left over joins the batch
            before it, because batch normalisation cannot train on one row.
        device: Where the rows lie and the batches are made.
        seed: Shuffles the rows, anew in every epoch; ``None`` keeps their order.
        window: Rows that all processes hold at a time, of which there are up to three; ``None`` decides by the memory
            that is free.
        processes: The processes that share each batch: each reads its rows of it.
        grouped: Whether the rows of a group stand together, and batches and shares of processes are cut between groups,
            as `GroupOrder` says; batches then say which group a row belongs to.

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
        processes: ProcessGroup = SINGLE_PROCESS,
        grouped: bool = False,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("window", window)):
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self._processes = processes
        self.window = window or default_window(rows)
        self._device = torch.device(device)
        self._grouped = self._group_order() if grouped else None
        self._groups = None if self._grouped is None else self._grouped.groups
        self._widths = rows.widths | ({GROUPS: 1} if grouped else {})
        self._held: Packed | None = None
        self._capacities = [0] * len(rows.schema.list_blocks)
        if self.window >= len(rows) and processes.size == 1:
            held = Packed(rows.packed(groups=self._groups), rows.lists())
            free = torch.cuda.mem_get_info(self._device)[0] if self._device.type == "cuda" else None
            self._held = held.to(self._device) if free is None or held.nbytes <= free // 2 else held

    def _group_order(self) -> GroupOrder:
        rows, held = self.rows, self.window >= len(self.rows)
        block, blocks = (None, 1) if held else (BLOCK_ROWS, max(1, self.window // BLOCK_ROWS))
        group = rows.schema.schema.group or ""
        return GroupOrder(rows.groups, self.batch_size, len(self), self.seed, block, blocks, group, self._processes)

    @property
    def notes(self) -> list[str]:
        """Sentences on groups that are cut."""
        return [] if self._grouped is None else [*self._grouped.notes()]

    def __len__(self) -> int:
        return len(self._starts())

    def epoch(self, number: int = 0, done: int = 0) -> Iterator[Batch]:
        """Yield the batches of one epoch; equal seed, number and window give the same rows in each.

        Args:
            number: The number of the epoch.
            done: How many batches to skip at the beginning, which are not read.
        """
        order = self._epoch_order(number)
        sizes, totals = order.sizes[done:].tolist(), order.totals[done:].tolist()
        if not sizes:
            return
        windows = self._windows(order, done)
        cut = _cut_batches(windows, sizes)
        batches: Iterable[Packed] = (pieces.joined().to(self._device) for pieces in cut)
        held = self._held is not None and self._held.matrix.device.type == "cuda"
        if self._device.type == "cuda" and not held and not self._capacities:
            fills = (pieces.written_to for pieces in cut)
            batches = map(Packed, staged(fills, max(1, *sizes), sum(self._widths.values()), self._device))
        elif held and self._capacities:
            batches = self._of_one_shape(next(windows), sizes)
        for packed, rows in zip(batches, totals, strict=True):
            batch = self._unpack(packed)
            yield batch if self._processes.size == 1 else replace(batch, share=Share(rows, self._processes))

    def _epoch_order(self, number: int) -> EpochOrder:
        """Return the order of the rows of an epoch, which is drawn on the CPU: so it is the same on each device."""
        if self._grouped is not None:
            return self._grouped.epoch(number)
        rows, processes = len(self.rows), self._processes
        bounds = np.append(self._starts(), rows)
        if self.seed is not None and self.window < rows:
            return LaneOrder(rows, bounds, processes, self.window, (self.seed, number))
        generator = None if self.seed is None else torch.Generator().manual_seed((self.seed << 20) + number)
        order = None if generator is None else torch.randperm(rows, generator=generator).numpy()
        piece = min(-(-self.window // processes.size), PIECE_ROWS)
        return KnownOrder(order, bounds, ranges(bounds, processes), piece)

    def _of_one_shape(self, window: Window, sizes: Sequence[int]) -> Iterator[Packed]:
        """Yield batches of all rows whose lists have spare values, so that a step on a GPU can be recorded.

        The host waits once per epoch, for the number of values of each batch.
        """
        ends = torch.tensor(sizes, device=window.packed.matrix.device).cumsum(0)
        totals = [_values_by_batch(own.offsets, window.order, ends) for own in window.packed.lists]
        self._capacities = [max(c, _capacity(max(t))) for c, t in zip(self._capacities, totals, strict=True)]
        start = 0
        for size, *found in zip(sizes, *totals, strict=True):
            yield window.take(start, start + size, list(zip(found, self._capacities, strict=True)))
            start += size

    def _starts(self) -> Integers:
        """The first row of each batch."""
        rows = len(self.rows)
        return np.arange(0, rows - 1 if rows % self.batch_size == 1 and rows > 1 else rows, self.batch_size)

    def _windows(self, order: EpochOrder, done: int) -> Iterator[Window]:
        """The rows of this process in their order, after the skipped batches."""
        if self._held is not None and isinstance(order, KnownOrder):
            device = self._held.matrix.device
            places = None if order.order is None else torch.from_numpy(order.order).to(device)
            yield Window(self._held, places).after(int(order.totals[:done].sum()))
            return
        yield from prefetch(partial(self._read, numbers) for numbers in order.windows(done))
        yield self._read(lambda: np.empty(0, np.int64))  # of a process without rows, what its batches are cut from

    def _read(self, numbers: Callable[[], Integers]) -> Window:
        rows = numbers()
        order = np.argsort(rows)
        places = np.empty_like(order)
        places[order] = np.arange(len(rows))
        stored = Packed(self.rows.packed(rows[order], self._groups), self.rows.lists(rows[order]))
        return Window(stored, None if self.seed is None and self._grouped is None else torch.from_numpy(places))

    def _unpack(self, packed: Packed) -> Batch:
        parts = dict(zip(self._widths, torch.split(packed.matrix, list(self._widths.values()), dim=1), strict=True))
        return Batch(
            ids=parts[IDS],
            numeric=parts[NUMERIC].view(torch.float32),
            labels=parts[LABELS].view(torch.float32),
            weight=parts[WEIGHT].view(torch.float32)[:, 0] if WEIGHT in parts else None,
            sampling_weight=parts[SAMPLING_WEIGHT].view(torch.float32)[:, 0] if SAMPLING_WEIGHT in parts else None,
            lists=packed.lists,
            task_weights=parts[TASK_WEIGHTS].view(torch.float32) if TASK_WEIGHTS in parts else None,
            groups=parts[GROUPS][:, 0] if GROUPS in parts else None,
            largest_group=0 if self._grouped is None else self._grouped.largest,
        )


class Packed(NamedTuple):
    """Rows: what has one width, packed ``[n, Σ widths]``, and the lists."""

    matrix: Tensor
    lists: tuple[IdLists, ...] = ()

    def to(self, device: torch.device) -> Packed:
        """Copy the rows to a device."""
        return Packed(self.matrix.to(device), tuple(own.to(device) for own in self.lists))

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return self.matrix.nbytes + sum(own.nbytes for own in self.lists)


class Window(NamedTuple):
    """Rows, and their positions in the order of the epoch, int64 ``[n]``, if it is another."""

    packed: Packed
    order: Tensor | None

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.packed.matrix if self.order is None else self.order)

    def take(self, start: int, end: int, sizes: Sequence[tuple[int, int]] | None = None) -> Packed:
        """Return a range of rows of the order; `sizes` are those of `IdLists.take` for each list."""
        matrix, lists = self.packed
        if self.order is None and sizes is None:
            return Packed(matrix[start:end], tuple(own.rows(start, end) for own in lists))
        order = torch.arange(start, end, device=matrix.device) if self.order is None else self.order[start:end]
        of_lists = zip(lists, sizes or itertools.repeat(None))  # noqa: B905
        taken = tuple(own.take(order, size) for own, size in of_lists)
        return Packed(matrix.index_select(0, order), taken)

    def write(self, start: int, end: int, out: Tensor) -> None:
        """Write a range of rows of the order, which have no lists, to `out` ``[end - start, Σ widths]``."""
        if self.order is None:
            out.copy_(self.packed.matrix[start:end])
        else:
            torch.index_select(self.packed.matrix, 0, self.order[start:end], out=out)

    def after(self, rows: int) -> Window:
        """Return the window without its first rows."""
        if self.order is not None:
            return Window(self.packed, self.order[rows:])
        matrix, lists = self.packed
        return Window(Packed(matrix[rows:], tuple(own.rows(rows, len(matrix)) for own in lists)), None)


class Pieces(list[tuple[Window, int, int]]):
    """The rows of a batch: ranges of one or several windows."""

    def joined(self) -> Packed:
        """Return the rows."""
        parts = [window.take(start, end) for window, start, end in self]
        if len(parts) == 1:
            return parts[0]
        lists = zip(*(part.lists for part in parts), strict=True)
        return Packed(torch.cat([part.matrix for part in parts]), tuple(map(IdLists.joined, lists)))

    def written_to(self, buffer: Tensor) -> Tensor:
        """Write the rows to the first ones of a buffer, and return these."""
        filled = 0
        for window, start, end in self:
            window.write(start, end, buffer[filled : filled + end - start])
            filled += end - start
        return buffer[:filled]


def default_window(rows: Rows) -> int:
    """Return how many rows to hold at a time.

    All rows if they fill at most half of the free memory; else up to a third of that half, rounded down to a power of
    two, so that a little more or less of free memory does not change the order of the rows.
    """
    held = int(available_memory() // 2 / rows.bytes_per_row)
    return len(rows) if held >= len(rows) else 1 << max(1, held // 3).bit_length() - 1


def _values_by_batch(offsets: Tensor, order: Tensor | None, ends: Tensor) -> list[int]:
    """Return how many values of a list each batch has, given the ends of the batches in the order of the rows."""
    lengths = offsets.diff()
    counted = (lengths if order is None else lengths.index_select(0, order)).cumsum(0)
    until = counted.index_select(0, ends - 1)
    return torch.diff(until, prepend=until.new_zeros(1)).tolist()


def _capacity(values: int) -> int:
    """Return room for so many values and a few more, so that the batches of most epochs have one shape."""
    step = max(1, 1 << max(0, values.bit_length() - 5))  # 3 to 6 % of them
    return (values // step + 2) * step


def _cut_batches(windows: Iterator[Window], sizes: Iterable[int]) -> Iterator[Pieces]:
    """Cut windows into batches of the given sizes; a batch may span several windows."""
    window, start = next(windows), 0
    for size in sizes:
        pieces = Pieces()
        while size or not pieces:
            if size and start == window.rows:
                window, start = next(windows), 0
            end = min(start + size, window.rows)
            pieces.append((window, start, end))
            size, start = size - (end - start), end
        yield pieces
