"""Where rows lie of a table that is spread over processes: scattered, so that each has as many of the frequent ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

GOLDEN = (math.sqrt(5) - 1) / 2


class RowPlaces:
    """The places of a table's rows, and the process that holds each.

    Row r lies at place r·m mod R, with m coprime to R and near R/φ, φ the golden ratio. Neighbours in a vocabulary that
    is sorted by frequency then lie far apart, and any run of them is spread evenly (multiplicative or Fibonacci
    hashing; Knuth, The Art of Computer Programming 3, section 6.4). A place does not depend on the number of processes,
    which hold chunks of ⌈R/N⌉ places, as ``Shard(0)`` of `torch.distributed.tensor` does; the last ones may hold fewer
    rows, or none.

    Args:
        rows: The number of rows of the table, R.
        processes: The number of processes, N.
        rank: The rank of this one.

    Attributes:
        rows: R.
        chunk: The places of each process but the last ones.
        start: The first place of this process.
        own: The number of places of this process.

    Example:
        >>> RowPlaces(rows=10, processes=3, rank=0).places_of(torch.arange(10))
        tensor([0, 7, 4, 1, 8, 5, 2, 9, 6, 3])
    """

    def __init__(self, rows: int, processes: int, rank: int) -> None:
        self.rows = rows
        self.chunk = -(-rows // processes)
        self.start = min(rows, self.chunk * rank)
        self.own = min(rows, self.start + self.chunk) - self.start
        self._factor = scattering_factor(rows)
        self._inverse = pow(self._factor, -1, rows)

    def places_of(self, rows: Tensor) -> Tensor:
        """Return the places of rows, int64."""
        return rows.long().mul(self._factor).remainder_(self.rows)

    def rows_at(self, places: Tensor) -> Tensor:
        """Return the rows at places, int64."""
        return places.long().mul(self._inverse).remainder_(self.rows)

    def owners_of(self, rows: Tensor) -> Tensor:
        """Return the rank of the process that holds each row, int64."""
        return self.places_of(rows).div_(self.chunk, rounding_mode="floor")

    def own_places_of(self, rows: Tensor) -> Tensor:
        """Return the places of this process's rows, counted from its first one, int64."""
        return self.places_of(rows).sub_(self.start)

    def own_rows(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Return which rows lie at this process's places, or at those from `start` up to `stop` of them, int64."""
        stop = self.own if stop is None else stop
        return self.rows_at(torch.arange(self.start + start, self.start + stop))


def scattering_factor(rows: int) -> int:
    """Return the number coprime to `rows` that is nearest to it divided by the golden ratio."""
    middle = round(rows * GOLDEN)
    near = (middle + sign * distance for distance in range(rows + 1) for sign in (1, -1))
    return next(factor for factor in near if factor > 0 and math.gcd(factor, rows) == 1)
