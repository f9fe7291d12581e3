"""Interpolate many numbers between few points: as `np.interp` does, bit for bit, in a third of its time."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from recmtl.data.columns.values import Codes, Floats

CELLS = 4096  # of a table that a cache of the processor holds
MOST_STEPS = 3  # points in a cell, from which on a binary search is as fast


class Interpolation:
    """A piecewise linear function through points, and constant outside of them.

    The range of the points is cut into equal cells. A table says which point stands before each cell, so that a number
    is compared with the points in its own cell alone; a binary search mispredicts half of its branches.

    Args:
        points: Finite and not falling ``[points]``; of equal ones the last counts.
        values: The function's values there ``[points]``.
    """

    def __init__(self, points: Floats, values: Floats) -> None:
        self._points, self._values = points, values
        with np.errstate(all="ignore"):
            self._slopes = np.append(np.diff(values) / np.diff(points), 0.0)
            self._scale = (CELLS - 1) / (points[-1] - points[0])
            rising = np.diff(points) > 0
            apart = np.isfinite(self._slopes[:-1]) | ~rising  # not by a denormal
        self._steps = MOST_STEPS + 1
        if np.isfinite(self._scale) and self._scale > 0 and rising[0] and apart.all():
            inside = np.bincount(self._cells(points), minlength=CELLS)
            self._steps, before = int(inside.max()), np.cumsum(inside) - inside
            self._last = np.maximum(before - 1, 0)  # the last point before each cell
            self._next = np.append(points[1:], np.inf)

    def __call__(self, numbers: Floats) -> Floats:
        """Return the function's values at finite numbers ``[rows]``."""
        if self._steps > MOST_STEPS:
            return np.interp(numbers, self._points, self._values)
        found: Floats = np.minimum(numbers, self._points[-1])
        np.maximum(found, self._points[0], out=found)
        place = self._last.take(self._cells(found))
        for _ in range(self._steps):
            place += found >= self._next.take(place)
        found -= self._points.take(place)
        found *= self._slopes.take(place)
        found += self._values.take(place)
        return found

    def _cells(self, numbers: Floats) -> Codes:
        cells = numbers - self._points[0]
        cells *= self._scale  # rises with the number, also where it is rounded
        places: Codes = cells.astype(np.int64)
        return places


@lru_cache(maxsize=512)
def interpolation(points: tuple[float, ...], low: float, high: float) -> Interpolation:
    """Return the function that maps points to equal steps from `low` to `high`, one point to their mean."""
    values = np.linspace(low, high, len(points)) if len(points) > 1 else np.array([(low + high) / 2])
    return Interpolation(np.array(points), values)
