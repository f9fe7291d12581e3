"""The order of the rows of an epoch in which those of a group stand together, and batches cut between groups."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Integers = npt.NDArray[np.int64]
Span = tuple[int, int]  # the first row, and the one behind the last


class GroupOrder:
    """Orders rows by group, anew in every epoch.

    Groups are shuffled, and batch k begins with the group in which row k · `batch_size` of the epoch falls: the batches
    of an epoch are as many as without groups, and of nearly one size. A group of more than half a batch is cut into
    pieces of half a batch. The range of a process in a batch begins and ends between groups likewise.

    If not all rows are held, windows are made of blocks of neighbouring rows that end between groups. Groups whose rows
    lie apart are together as far as a window holds them.

    Args:
        groups: The number of the group of each row, ``[rows]``.
        batch_size: The number of rows of a batch.
        batches: The number of batches of an epoch.
        seed: Shuffles the groups; ``None`` keeps them in the order of their numbers, and blocks in that of the rows.
        block: About how many neighbouring rows are read together; ``None`` if all rows are held.
        window: The number of blocks of a window.
        column: The name of the column in notes.

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
    ) -> None:
        self.groups, self.batch_size, self.batches, self.seed = groups, batch_size, batches, seed
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

    def epoch(self, number: int) -> GroupedEpoch:
        """Return the order of an epoch."""
        return GroupedEpoch(self, number)

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
                f"loss compares those that meet in a window (sort the rows by {self._column!r})"
            )


class GroupedEpoch:
    """The order of the rows of one epoch.

    Attributes:
        windows: The blocks of rows of each window.
        bounds: Where batches begin in the order, and the end: ``[batches + 1]``.
    """

    def __init__(self, order: GroupOrder, number: int) -> None:
        self._order, self._number = order, number
        self.windows = order.windows(number)
        lengths = np.concatenate([self._pieces(place)[1] for place in range(len(self.windows))])
        self._ends = np.append(0, np.cumsum(lengths))
        starts = self._floored(np.arange(order.batches, dtype=np.int64) * order.batch_size)
        self.bounds: Integers = np.append(starts, len(order.groups))

    def rows(self, window: int) -> Tensor:
        """Return the order of the rows of a window, int64 ``[n]``, counted from the first one of its blocks."""
        return torch.from_numpy(self._pieces(window)[0])

    def shares(self, rank: int, processes: int) -> list[slice]:
        """Return the range of rows of a process in each batch."""
        starts, sizes = self.bounds[:-1], np.diff(self.bounds)
        own = (self._floored(starts + sizes * place // processes) - starts for place in (rank, rank + 1))
        return [slice(*pair) for pair in zip(*(bound.tolist() for bound in own), strict=True)]

    def _floored(self, places: Integers) -> Integers:
        """Return where the groups begin that have the rows at some places of the order."""
        found: Integers = self._ends[np.searchsorted(self._ends, places, side="right") - 1]
        return found

    def _pieces(self, window: int) -> tuple[Integers, Integers]:
        """Return the order of the rows of a window, and the lengths of groups, or their pieces, in it."""
        return self._only_window if len(self.windows) == 1 else self._ordered(window)

    @cached_property
    def _only_window(self) -> tuple[Integers, Integers]:
        return self._ordered(0)

    def _ordered(self, window: int) -> tuple[Integers, Integers]:
        order = self._order
        groups = np.concatenate([order.groups[start:end] for start, end in self.windows[window]])
        rng = None if order.seed is None else np.random.default_rng((order.seed, self._number, window))
        return grouped_order(groups, order.longest, rng)


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
    starts, lengths = starts[chosen], lengths[chosen]
    shifts = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    return by_group[shifts + rows], lengths
