"""The order of the rows of an epoch, and which of them each process reads: the same batches for any number of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recmtl.balance.distributed import ProcessGroup

Integers = npt.NDArray[np.int64]

BLOCK_ROWS = 4096  # neighbouring rows that are shuffled over the windows together
LANES = 192  # 64 · 3: processes, if they are up to 64 or so, get nearly as many of them
LANE_ROWS = 1024  # of a window, at least, unless there is a single lane
PIECE_ROWS = 1 << 16  # rows of known numbers that a process reads at a time


class EpochOrder(Protocol):
    """The order of the rows of an epoch.

    Attributes:
        totals: The number of rows of each batch.
        sizes: How many of them this process has.
    """

    totals: Integers
    sizes: Integers

    def windows(self, done: int) -> Iterator[Callable[[], Integers]]:
        """Yield the numbers of the rows of this process after so many batches, as many as are read at a time."""


class KnownOrder:
    """An order that is known before a row is read: of each batch, a process has a range.

    Args:
        order: The numbers of the rows ``[rows]``; ``None`` is the stored order.
        bounds: Where batches begin in it, and the end ``[batches + 1]``.
        own: Where this process's rows of each batch begin in it, and their ends ``[batches]``.
        piece: About how many rows are read at a time.
    """

    def __init__(self, order: Integers | None, bounds: Integers, own: tuple[Integers, Integers], piece: int) -> None:
        self.order, self._piece = order, piece
        self._starts, ends = own
        self.totals, self.sizes = np.diff(bounds), ends - self._starts

    def windows(self, done: int) -> Iterator[Callable[[], Integers]]:
        """Yield the numbers of this process's rows after so many batches, those of whole batches at a time."""
        ends = np.cumsum(self.sizes)
        while done < len(ends):
            before = ends[done - 1] if done else 0
            until = max(done + 1, int(np.searchsorted(ends, before + self._piece, side="right")))
            yield partial(self._numbers, done, until)
            done = until

    def _numbers(self, first: int, until: int) -> Integers:
        pairs = zip(self._starts[first:until], self.sizes[first:until], strict=True)
        places = np.concatenate([np.arange(start, start + size) for start, size in pairs])
        return places if self.order is None else self.order[places]


def ranges(bounds: Integers, processes: ProcessGroup) -> tuple[Integers, Integers]:
    """Return where a process's rows of each batch begin and end: as many as any other has, or one more."""
    rank, size = processes.rank, processes.size
    starts, sizes = bounds[:-1], np.diff(bounds)
    return starts + sizes * rank // size, starts + sizes * (rank + 1) // size


class LaneOrder:
    """Shuffles rows that are read in windows, such that a process reads its part of them alone.

    Blocks of neighbouring rows are permuted, and what they make is cut into windows, each of these into lanes of one
    length, of which each is shuffled. Place t of a window belongs to lane σ(t mod L), where σ spreads neighbours over
    all lanes: so a batch takes an equal share of each of them, within one row. Each process has a range of lanes. The
    order does not depend on the number of processes.

    Args:
        rows: The number of rows.
        bounds: Where batches begin in the order, and the end ``[batches + 1]``.
        processes: The processes that share the batches.
        window: The number of rows of a window, of which the processes hold their parts.
        seed: The seed of the epoch.
    """

    def __init__(
        self, rows: int, bounds: Integers, processes: ProcessGroup, window: int, seed: tuple[int, ...]
    ) -> None:
        self._rows, self._seed = rows, seed
        lanes = lanes_of(window)
        self._window = window // lanes * lanes
        self._block = min(BLOCK_ROWS, window // lanes)
        self._blocks = np.random.default_rng(seed).permutation(-(-rows // self._block))
        first, end = (lanes * place // processes.size for place in (processes.rank, processes.rank + 1))
        self._lane_of_slot = spread(lanes)  # t mod L
        self._slots = np.flatnonzero((first <= self._lane_of_slot) & (self._lane_of_slot < end))  # this process's
        self._bounds = bounds
        self.totals, self.sizes = np.diff(bounds), np.diff(self._own_before(bounds))

    def windows(self, done: int) -> Iterator[Callable[[], Integers]]:
        """Yield the numbers of this process's rows after so many batches, window by window."""
        skipped = self._own_before(self._bounds[done])
        for number in range(int(self._bounds[done]) // self._window, -(-self._rows // self._window)):
            skip = max(0, int(skipped - self._own_before(np.int64(number * self._window))))
            yield partial(self._numbers, number, skip)

    def _own_before(self, places: Integers | np.int64) -> Integers:
        """Return how many rows before places of the order are this process's."""
        whole, rest = np.divmod(places, len(self._lane_of_slot))
        found: Integers = whole * len(self._slots) + np.searchsorted(self._slots, rest)
        return found

    def _numbers(self, window: int, skip: int) -> Integers:
        start, lanes = window * self._window, len(self._lane_of_slot)
        rows = min(self._window, self._rows - start)
        sizes = (rows - np.arange(lanes) + lanes - 1) // lanes  # by slot
        starts = np.zeros(lanes, np.int64)
        starts[self._lane_of_slot] = sizes
        starts = np.cumsum(starts) - starts  # by lane
        places = np.full((int(sizes[0]), len(self._slots)), -1)  # t div L, own slots
        for column, slot in enumerate(self._slots.tolist()):
            lane, size = int(self._lane_of_slot[slot]), int(sizes[slot])
            rng = np.random.default_rng((*self._seed, window, lane))
            places[:size, column] = starts[lane] + rng.permutation(size)
        own = places.ravel()
        return self._stored(start + own[own >= 0][skip:])

    def _stored(self, places: Integers) -> Integers:
        """Return the numbers of the rows at places of the permuted blocks, one of which may be shorter."""
        block, last = self._block, len(self._blocks) - 1
        missing = (last + 1) * block - self._rows
        behind = np.flatnonzero(self._blocks == last)[0] * block + block - missing  # the shorter one
        places = places + missing * (places >= behind)
        found: Integers = self._blocks[places // block] * block + places % block
        return found


def lanes_of(window: int) -> int:
    """Return the number of lanes of a window."""
    return max(n for n in range(1, LANES + 1) if LANES % n == 0 and (n == 1 or n * LANE_ROWS <= window))


def spread(lanes: int) -> Integers:
    """Return an order of lanes in which neighbours lie far apart, by the fractions of multiples of the golden ratio."""
    return np.argsort(np.argsort(np.arange(lanes) * (5**0.5 - 1) / 2 % 1))
