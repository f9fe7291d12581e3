"""The numeric features of a request, all at once: per feature, NumPy's overhead would be most of the time."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from recmtl.serving.feature_encoders import Column, Entry, Floats, limits, number_reader

FEW_ROWS = 8  # for which all points of a feature are compared, without a search
LARGEST = np.finfo(np.float32).max


class NumberEncoder:
    """Some numeric features: their numbers, then the missing indicators of those that have one.

    Args:
        entries: The entries of the features.
        nulls: The words for a missing value.
        decimal: The decimal mark of text.
    """

    def __init__(self, entries: Sequence[Entry], nulls: Collection[str], decimal: str) -> None:
        self._readers = [number_reader(entry["name"], nulls, decimal) for entry in entries]
        self._low, self._high = (_column(side) for side in zip(*map(limits, entries), strict=True))
        self._clips = bool(np.isfinite([*self._low, *self._high]).any())
        self._constants = _where(entries, lambda entry: entry["constant"] is not None)
        self._constant = _column(entries[place]["constant"] for place in self._constants)
        self._logs = _where(entries, lambda entry: entry["transform"] == "log1p")
        self._center = _column(entry["center"] for entry in entries)
        self._shift, scale = (_column(entry[key] for entry in entries) for key in ("shift", "scale"))
        self._scale = np.where(scale == 0, np.inf, scale)  # a feature that does not vary becomes 0
        self._steps = [
            (places, Interpolation([entries[place]["points"] for place in places], low, kind == "knots"))
            for kind, low in (("knots", -1.0), ("quantile", 0.0))
            if len(places := _where(entries, lambda entry, kind=kind: entry["transform"] == kind))  # type: ignore[misc]
        ]
        self.indicators = _where(entries, lambda entry: entry["indicator"] is not None)
        shares = [entries[place]["indicator"] for place in self.indicators]
        self._fixed = np.array([share in (0, 1) for share in shares], np.bool_)
        self._shares = np.array(shares, np.float32)

    def __call__(self, columns: Sequence[Column]) -> npt.NDArray[np.float32]:
        """Return the numbers and indicators of the rows ``[rows, features + indicators]``."""
        flat = array("d")
        for read, column in zip(self._readers, columns, strict=True):
            flat.extend(read(column))
        values = np.frombuffer(flat).reshape(len(columns), -1)  # [features, rows]
        missing = np.isnan(values)
        if self._clips:
            values = np.clip(values, self._low, self._high)
        matrix = np.empty((values.shape[1], len(columns) + len(self.indicators)), np.float32)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # clipped below
            matrix[:, : len(columns)] = self._transformed(values, missing).T
        np.clip(matrix, -LARGEST, LARGEST, out=matrix)
        if len(self.indicators):
            matrix[:, len(columns) :] = np.where(self._fixed, self._shares, missing[self.indicators].T)
        return matrix

    def _transformed(self, values: Floats, missing: npt.NDArray[np.bool_]) -> Floats:
        if len(self._constants):
            values[self._constants] = self._constant
            missing = np.isnan(values)
        if len(self._logs):
            logs = values[self._logs]
            values[self._logs] = np.sign(logs) * np.log1p(np.abs(logs))
        if missing.any():
            values = np.where(missing, self._center, values)
        found: Floats = (values - self._shift) / self._scale
        for places, interpolate in self._steps:
            found[places] = interpolate(values[places])
        return found


def _column(values: Iterable[float]) -> Floats:
    return np.array(list(values), np.float64)[:, None]


def _where(entries: Sequence[Entry], holds: Callable[[Entry], bool]) -> npt.NDArray[np.int64]:
    return np.array([place for place, entry in enumerate(entries) if holds(entry)], np.int64)


class Interpolation:
    """Piecewise linear functions of several features, with steps of equal height from a low value to 1.

    Args:
        points: The rising points of each feature, at which the steps end.
        low: The value at the first point.
        clips: Whether values are clipped, as points may be a denormal apart.
    """

    def __init__(self, points: Sequence[Sequence[float]], low: float, clips: bool) -> None:
        single = np.zeros(1)
        heights = [np.linspace(low, 1, len(p)) if len(p) > 1 else single for p in points]
        self._pairs = [(np.array(p, np.float64), h) for p, h in zip(points, heights, strict=True)]
        self._clips, longest = clips, max(map(len, points))
        self._points, self._heights = (np.full((len(points), longest), np.inf) for _ in range(2))
        for row, (p, h) in enumerate(self._pairs):
            self._points[row, : len(p)], self._heights[row, : len(h)] = p, h
        self._last = np.array([[len(p) - 1] for p in points])  # [features, 1]
        self._starts = np.arange(len(points))[:, None] * longest

    def __call__(self, values: Floats) -> Floats:
        """Return the heights at some values ``[features, rows]``."""
        if values.shape[1] <= FEW_ROWS:
            found = self._of_few(values)
        else:
            found = np.stack([np.interp(own, *pair) for own, pair in zip(values, self._pairs, strict=True)])
        return np.clip(found, -1, 1) if self._clips else found

    def _of_few(self, values: Floats) -> Floats:
        """Return what `np.interp` does, by the same products and sums."""
        place = (self._points[:, None, :] <= values[:, :, None]).sum(2) - 1  # [features, rows]
        below = np.maximum(place, 0)
        left, right = self._starts + below, self._starts + np.minimum(below + 1, self._last)
        x0, x1 = self._points.take(left), self._points.take(right)
        y0, y1 = self._heights.take(left), self._heights.take(right)
        slope = (y1 - y0) / (x1 - x0)
        found = slope * (values - x0) + y0
        found = np.where(np.isnan(found), slope * (values - x1) + y1, found)
        at_point = (place < 0) | (place >= self._last) | (values == x0)
        heights: Floats = np.where(at_point, y0, found)
        return heights
