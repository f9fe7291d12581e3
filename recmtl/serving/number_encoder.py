"""The numeric features of a request, all at once: per feature, NumPy's overhead would be most of the time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from recmtl.serving.feature_encoders import Column, Entry, Floats, NumberReader, limits

LARGEST = np.finfo(np.float32).max


class NumberEncoder:
    """Some numeric features: their numbers, then the missing indicators of those that have one.

    Args:
        entries: The entries of the features.
        nulls: The words for a missing value.
        decimal: The decimal mark of text.
    """

    def __init__(self, entries: Sequence[Entry], nulls: Collection[str], decimal: str) -> None:
        self._names, self._reader = [entry["name"] for entry in entries], NumberReader(nulls, decimal)
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
        values = self._reader.read(self._names, columns)
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

    They are what `np.interp` computes, by the same products and sums, of all features at once.

    Args:
        points: The rising points of each feature, at which the steps end.
        low: The value at the first point.
        clips: Whether values are clipped, as points may be a denormal apart.
    """

    def __init__(self, points: Sequence[Sequence[float]], low: float, clips: bool) -> None:
        self._clips, self._steps = clips, [1 << bit for bit in reversed(range(max(map(len, points)).bit_length()))]
        width = 2 * self._steps[0]
        self._points, self._heights = (np.full((len(points), width), np.inf) for _ in range(2))
        for row, own in enumerate(points):
            self._points[row, : len(own)] = own
            self._heights[row, : len(own)] = np.linspace(low, 1, len(own)) if len(own) > 1 else 0
        self._first = np.arange(len(points))[:, None] * width  # [features, 1]
        self._last = self._first + [[len(own) - 1] for own in points]

    def __call__(self, values: Floats) -> Floats:
        """Return the heights at some values ``[features, rows]``."""
        place = np.broadcast_to(self._first - 1, values.shape).copy()  # of the last point up to the value, if any
        for step in self._steps:  # a search in halves, without a branch
            place += (self._points.take(place + step, mode="clip") <= values) * step
        left = np.maximum(place, self._first)
        right = np.minimum(left + 1, self._last)
        x0, y0, x1, y1 = (a.take(at) for at in (left, right) for a in (self._points, self._heights))
        slope = (y1 - y0) / (x1 - x0)
        found = slope * (values - x0) + y0
        if (undefined := np.isnan(found)).any():
            found = np.where(undefined, slope * (values - x1) + y1, found)
        found = np.where((place < self._first) | (place >= self._last) | (values == x0), y0, found)
        return np.clip(found, -1, 1) if self._clips else found
