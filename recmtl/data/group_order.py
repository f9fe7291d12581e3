"""The order of the rows of an epoch in which those of a group stand together, and batches cut between groups."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from recmtl.balance.distributed import ProcessGroup
from recmtl.data.row_order import LANES, PIECE_ROWS, Integers, KnownOrder, ranges

Booleans = npt.NDArray[np.bool_]
Span = tuple[int, int]  # the first row, and the one behind the last


class GroupOrder:
    """Orders rows by group, anew in every epoch.

    Groups are shuffled, and batch k begins with the group in which row k · `batch_size` of the epoch falls: the batches
    of an epoch are as many as without groups, and of nearly one size. A group of more than half a batch is cut into
    pieces of half a batch. The range of a process in a batch begins and ends between groups likewise.

    If not all rows are held, windows are made of blocks of neighbouring rows that end between groups, and the blocks of
    a window are dealt to lanes, whose groups alternate; of a batch a process has the groups of its range of lanes.
    Groups whose rows lie apart are together as far as a lane holds them.

    Args:
        groups: The number of the group of each row, ``[rows]``.
        batch_size: The number of rows of a batch.
        batches: The number of batches of an epoch.
        seed: Shuffles the groups; ``None`` keeps them in the order of their numbers, and blocks in that of the rows.
        block: About how many neighbouring rows are read together; ``None`` if all rows are held.
        window: The number of blocks of a window.
        column: The name of the column in notes.
        processes: The processes that share the batches.

    Attributes:
        longest: The most rows of a group that stay together.
        largest: The rows of the largest group.
    """

    def __init__(
        self,
        groups: Integers,
        batch_size: int,
        batches: int,
        seed: int | None,
        block: int | None,
        window: int,
        column: str,
        processes: ProcessGroup,
    ) -> None:
        self.groups, self.batch_size, self.batches, self.seed = groups, batch_size, batches, seed
        self.processes, self._in_windows = processes, block is not None
        self._window, self._column = window, column
        self.longest = max(1, batch_size // 2)
        self.sizes = np.unique(groups, return_counts=True)[1]
        self.largest = int(self.sizes.max(initial=1))
        changes = np.flatnonzero(np.diff(groups)) + 1
        self._runs = len(changes) + 1
        ends = np.append(changes, len(groups))
        starts = np.arange(block or len(groups), len(groups), block or len(groups))
        cuts = np.unique(ends[np.searchsorted(ends, starts)])
        bounds = [0, *(cut for cut in cuts.tolist() if cut < len(groups)), len(groups)]
        self.blocks: list[Span] = list(itertools.pairwise(bounds))

    def epoch(self, number: int) -> KnownOrder | GroupedWindows:
        """Return the order of an epoch."""
        if self._in_windows:
            return GroupedWindows(self, number)
        rng = None if self.seed is None else np.random.default_rng((self.seed, number, 0))
        order, lengths = grouped_order(self.groups, self.longest, rng)
        ends = np.append(0, np.cumsum(lengths))
        bounds = ends[self.cuts(ends)]
        starts, stops = (ends[piece_at(ends, places)] for places in ranges(bounds, self.processes))
        return KnownOrder(order, bounds, (starts, stops), PIECE_ROWS)

    def cuts(self, ends: Integers) -> Integers:
        """Return the first piece of each batch, given the ends of all pieces from 0, and the number of pieces."""
        starts = np.arange(self.batches, dtype=np.int64) * self.batch_size
        return np.append(piece_at(ends, starts), len(ends) - 1)

    def windows(self, number: int) -> list[list[Span]]:
        """Return the blocks of each window of an epoch."""
        order = np.arange(len(self.blocks))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, number)).permutation(order)
        blocks = [self.blocks[place] for place in order]
        return [blocks[start : start + self._window] for start in range(0, len(blocks), self._window)]

    def notes(self) -> Iterator[str]:
        """Yield sentences on groups that are cut."""
        long = int((self.sizes > self.longest).sum())
        if long:
            one = long == 1
            yield (
                f"{long:,} group{'' if one else 's'} of {self._column!r} with more than {self.longest:,} rows, half a "
                f"batch, {'is' if one else 'are'} cut: the ranking loss compares the rows of a part (a `batch_size` of "
                f"{2 * self.largest:,} cuts none)"
            )
        if len(self.blocks) > 1 and self._runs > len(self.sizes):
            yield (
                f"rows of one {self._column!r} lie apart in the training rows, which are read in windows: the ranking "
                f"loss compares those that meet in a part of one (sort the rows by {self._column!r})"
            )


class GroupedWindows:
    """The order of the rows of one epoch that are read in windows: an `EpochOrder`.

    A piece is a group, or a part of one that is cut.
    """

    def __init__(self, order: GroupOrder, number: int) -> None:
        self._order, self._number = order, number
        self._blocks = order.windows(number)
        _, lengths, owned = zip(*(self._ordered(window) for window in range(len(self._blocks))), strict=True)
        ends, own_ends = (
            np.append(0, np.cumsum(np.concatenate(rows)))
            for rows in (lengths, [length * own for length, own in zip(lengths, owned, strict=True)])
        )
        cuts = order.cuts(ends)
        self._own_bounds = own_ends[cuts]  # of batches
        self._own_starts = own_ends[np.cumsum([0, *map(len, lengths)])]  # of windows
        self.totals, self.sizes = np.diff(ends[cuts]), np.diff(self._own_bounds)

    def windows(self, done: int) -> Iterator[Callable[[], Integers]]:
        """Yield the numbers of this process's rows after so many batches, window by window."""
        skipped = int(self._own_bounds[done])
        for window, (first, end) in enumerate(itertools.pairwise(self._own_starts.tolist())):
            if skipped < end:
                yield partial(self._numbers, window, max(0, skipped - first))

    def _numbers(self, window: int, skip: int) -> Integers:
        rows, lengths, owned = self._ordered(window)
        return rows[np.repeat(owned, lengths)][skip:]

    def _ordered(self, window: int) -> tuple[Integers, Integers, Booleans]:
        """Return the rows of a window, the lengths of their pieces, and which of these are this process's."""
        order, blocks = self._order, self._blocks[window]
        by_lane = itertools.groupby(range(len(blocks)), lambda place: place * LANES // len(blocks))
        rows, lengths, lanes = [], [], []
        for lane, places in by_lane:
            own = np.concatenate([np.arange(*blocks[place]) for place in places])
            rng = None if order.seed is None else np.random.default_rng((order.seed, self._number, window, lane))
            by_group, sizes = grouped_order(order.groups[own], order.longest, rng)
            rows.append(own[by_group])
            lengths.append(sizes)
            lanes.append(np.full(len(sizes), lane))
        chosen = alternated(lengths)
        sizes, lane_of = np.concatenate(lengths), np.concatenate(lanes)[chosen]
        rank, processes = order.processes.rank, order.processes.size
        owned = (LANES * rank // processes <= lane_of) & (lane_of < LANES * (rank + 1) // processes)
        return np.concatenate(rows)[in_order(sizes, chosen)], sizes[chosen], owned


def alternated(lengths: Sequence[Integers]) -> Integers:
    """Return an order of the pieces of all lanes in which lanes alternate by the rows that they have.

    Neighbouring lanes are merged two by two, until one sequence is left: any beginning of it holds, within about a
    piece, as much of one half of the lanes as of the other, of each quarter as of another, and so on.

    Args:
        lengths: The lengths of the pieces of each lane, which has some.
    """
    of_all = np.concatenate(lengths)
    sequences = np.split(np.arange(len(of_all)), np.cumsum([len(own) for own in lengths])[:-1])
    while len(sequences) > 1:
        pairs = [sequences[place : place + 2] for place in range(0, len(sequences), 2)]
        sequences = [np.concatenate(pair)[np.argsort(_middles(of_all, pair), kind="stable")] for pair in pairs]
    return sequences[0]


def _middles(lengths: Integers, sequences: Sequence[Integers]) -> npt.NDArray[np.float64]:
    """Return where the middles of pieces lie in their sequences, as parts of these."""
    ends = [(np.cumsum(lengths[own]), lengths[own]) for own in sequences]
    return np.concatenate([(end - length / 2) / end[-1] for end, length in ends])


def piece_at(ends: Integers, places: Integers) -> Integers:
    """Return which pieces hold the rows at some places, given the ends of all pieces from 0."""
    return np.searchsorted(ends, places, side="right") - 1


def in_order(lengths: Integers, order: Integers) -> Integers:
    """Return the places ``[n]`` of the rows of pieces that are put into another order."""
    starts, lengths = (np.cumsum(lengths) - lengths)[order], lengths[order]
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def grouped_order(groups: Integers, longest: int, rng: np.random.Generator | None) -> tuple[Integers, Integers]:
    """Return an order in which the rows of a group stand together, and the lengths of groups, or their pieces, in it.

    Args:
        groups: The group of each row, ``[n]``.
        longest: The most rows of a piece of a group; which rows make a piece is random.
        rng: Shuffles the groups; ``None`` sorts them.

    Returns:
        The rows ``[n]``, and the lengths ``[pieces]``.
    """
    rows = np.arange(len(groups))
    by_group = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[by_group], prepend=-1))
    lengths = np.diff(starts, append=len(groups))
    if lengths.max(initial=0) > longest:
        if rng is not None:
            mixed = rng.permutation(len(groups))
            by_group = mixed[np.argsort(groups[mixed], kind="stable")]
        starts = np.flatnonzero((rows - np.repeat(starts, lengths)) % longest == 0)
        lengths = np.diff(starts, append=len(groups))
    if rng is None:
        return by_group, lengths
    chosen = rng.permutation(len(starts))
    return by_group[in_order(lengths, chosen)], lengths[chosen]
