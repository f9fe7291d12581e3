"""Interpolate many numbers between few points: as `np.interp` does, bit for bit, in a fifth of its time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter

import numpy as np

from recmtl.data.columns.values import Codes, Floats

CELLS = 4096  # of a table that a cache of the processor holds
MOST_STEPS = 8  # points in a cell, from which on a binary search is as fast
SKEWS = range(0, 44, 4)  # by which powers of two the first cell may be narrower than the last


class Cells:
    """Cells that cut the range of some points: of equal width, or ever wider ones.

    The cell of a number is read off the first bits of its distance from the first point plus an offset, as they rise
    with the distance. An offset as large as the range makes cells equal; a small one makes those of small distances
    narrow, which points of skewed numbers need.

    Args:
        points: Finite and not falling ``[points]``.
        offset: The offset, above 0.

    Attributes:
        most: The most points in a cell.
    """

    def __init__(self, points: Floats, offset: float) -> None:
        self._zero = points[0] - offset
        first, last = (points[[0, -1]] - self._zero).view(np.int64).tolist()
        self._first, self._shift = first, max(0, (last - first).bit_length() - CELLS.bit_length() + 1)
        places, self.most = self(points), 1
        while (places[self.most :] == places[: -self.most]).any():
            self.most += 1

    def __call__(self, numbers: Floats) -> Codes:
        """Return the cell of each number between the first and the last point ``[rows]``."""
        places: Codes = (numbers - self._zero).view(np.int64)
        places -= self._first
        places >>= self._shift
        return places

    @classmethod
    def of(cls, points: Floats) -> Cells:
        """Return cells with as few points as possible."""
        found, width = list[Cells](), 2.0 ** math.ceil(math.log2(points[-1] - points[0]))
        for skew in SKEWS:
            found.append(cls(points, width * 0.5**skew))
            if found[-1].most == 1:
                break
        return min(found, key=attrgetter("most"))


class Interpolation:
    """A piecewise linear function through points, and constant outside of them.

    A table says which point stands before each of many cells, so that a number is compared with the points in its own
    cell alone; a binary search mispredicts half of its branches.

    Args:
        points: Finite and not falling ``[points]``; of equal ones the last counts.
        values: The function's values there ``[points]``.
    """

    def __init__(self, points: Floats, values: Floats) -> None:
        self._points, self._values = points, values
        with np.errstate(all="ignore"):
            self._slopes = np.append(np.diff(values) / np.diff(points), 0.0)
            rising = np.diff(points) > 0
            apart = np.isfinite(self._slopes[:-1]) | ~rising  # not by a denormal
            room = np.isfinite(4 * points[[0, -1]]).all()  # for the offset of cells
        self._cells = Cells.of(points) if rising[:1].all() and rising.any() and apart.all() and room else None
        if self._cells is not None:
            inside = np.bincount(self._cells(points), minlength=CELLS)
            self._last = np.maximum(np.cumsum(inside) - inside - 1, 0)  # the last point before each cell
            self._next = np.append(points[1:], np.inf)

    def __call__(self, numbers: Floats, inside: bool = False) -> Floats:
        """Return the function's values at finite numbers ``[rows]``; `inside` says that none is beyond the points."""
        if self._cells is None or self._cells.most > MOST_STEPS:
            values = np.interp(numbers, self._points, self._values)
            return np.clip(values, self._values[0], self._values[-1], out=values)  # points may be a denormal apart
        if not inside:
            numbers = np.minimum(numbers, self._points[-1])
            np.maximum(numbers, self._points[0], out=numbers)
        place = self._last.take(self._cells(numbers))
        for _ in range(self._cells.most):
            place += numbers >= self._next.take(place)
        found: Floats = numbers - self._points.take(place)
        found *= self._slopes.take(place)
        found += self._values.take(place)
        return found


def interpolation(points: Sequence[float], low: float, high: float) -> Interpolation:
    """Return the function that maps points to equal steps from `low` to `high`, one point to their mean."""
    values = np.linspace(low, high, len(points)) if len(points) > 1 else np.array([(low + high) / 2])
    return Interpolation(np.array(points), values)
