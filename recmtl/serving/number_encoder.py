"""The numeric features of a request, all at once: per feature, NumPy's overhead would be most of the time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from recmtl.io.spellings import NullWords
from recmtl.serving.feature_encoders import Column, Entry, Floats, NumberReader, limits

LARGEST = np.finfo(np.float32).max
ZERO = np.zeros(1)


class NumberEncoder:
    """Some numeric features: their numbers, then the missing indicators of those that have one.

    Args:
        entries: The entries of the features.
        nulls: The words for a missing value.
        decimal: The decimal mark of text.
    """

    def __init__(self, entries: Sequence[Entry], nulls: NullWords, decimal: str) -> None:
        self._names, self._reader = [entry["name"] for entry in entries], NumberReader(nulls, decimal)
        self._low, self._high = (_column(side) for side in zip(*map(limits, entries), strict=True))
        self._clips = bool(np.isfinite([*self._low, *self._high]).any())
        self._constants = _where(entries, lambda entry: entry["constant"] is not None)
        self._constant = _column(entries[place]["constant"] for place in self._constants)
        self._logs = _where(entries, lambda entry: entry["transform"] == "log1p")
        self._center = _column(entry["center"] for entry in entries)
        self._others = _where(entries, lambda entry: not entry["points"])  # shifted and scaled, not interpolated
        self._shift, scale = (_column(entries[place][key] for place in self._others) for key in ("shift", "scale"))
        self._scale = np.where(scale == 0, np.inf, scale)  # a feature that does not vary becomes 0
        self._steps = [
            (places, Interpolation([entries[place]["points"] for place in places], low, kind == "knots"))
            for kind, low in (("knots", -1.0), ("quantile", 0.0))
            if len(places := _where(entries, lambda entry, kind=kind: entry["transform"] == kind))  # type: ignore[misc]
        ]
        self.indicators = _where(entries, lambda entry: entry["indicator"] is not None)
        shares = [entries[place]["indicator"] for place in self.indicators]
        self._fixed = np.array([share in (0, 1) for share in shares], np.bool_)[:, None]
        self._shares = np.array(shares, np.float32)[:, None]

    def __call__(self, columns: Sequence[Column]) -> npt.NDArray[np.float32]:
        """Return the numbers and indicators of the rows ``[features + indicators, rows]``."""
        values = self._reader.read(self._names, columns)  # [features, rows]
        missing = np.isnan(values)
        if self._clips:
            values = np.clip(values, self._low, self._high)
        found = np.empty((len(columns) + len(self.indicators), values.shape[1]), np.float32)
        with np.errstate(over="ignore", invalid="ignore"):  # clipped below
            found[: len(columns)] = self._transformed(values, missing)
        if len(self._others):
            np.clip(found, -LARGEST, LARGEST, out=found)
        if len(self.indicators):
            found[len(columns) :] = np.where(self._fixed, self._shares, missing[self.indicators])
        return found

    def _transformed(self, values: Floats, missing: npt.NDArray[np.bool_]) -> Floats:
        if len(self._constants):
            values[self._constants] = self._constant
            missing = np.isnan(values)
        if len(self._logs):
            logs = values[self._logs]
            values[self._logs] = np.sign(logs) * np.log1p(np.abs(logs))
        if missing.any():
            values = np.where(missing, self._center, values)
        for places, interpolate in self._steps:
            if len(places) == len(values):
                return interpolate(values)
            values[places] = interpolate(values[places])
        if len(self._others):
            values[self._others] = (values[self._others] - self._shift) / self._scale
        return values


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
        self._clips = clips
        self._pairs = [(np.array(p, np.float64), np.linspace(low, 1, len(p)) if len(p) > 1 else ZERO) for p in points]
        self._halves = [1 << bit for bit in reversed(range(max(map(len, points)).bit_length()))]
        shape = len(points), 2 * self._halves[0]
        self._points, self._heights, self._slopes = np.full(shape, np.inf), np.zeros(shape), np.zeros(shape)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            for row, (xs, ys) in enumerate(self._pairs):
                self._points[row, : len(xs)], self._heights[row, : len(xs)] = xs, ys
                self._slopes[row, : len(xs) - 1] = np.diff(ys) / np.diff(xs)
        self._starts = np.arange(len(points))[:, None] * shape[1]  # [features, 1]
        self._first, self._last = (_column(xs[end] for xs, _ in self._pairs) for end in (0, -1))
        # Points may be equal, a denormal apart, or so far that their distance overflows.
        self._plain = bool(
            (np.isfinite(self._slopes) & (self._slopes >= 0)).all() and np.isfinite(self._last - self._first).all()
        )

    def __call__(self, values: Floats) -> Floats:
        """Return the heights at some values ``[features, rows]``."""
        found = self._by_slopes(values) if self._plain else self._one_by_one(values)
        return np.clip(found, -1, 1) if self._clips else found

    def _by_slopes(self, values: Floats) -> Floats:
        values = np.minimum(np.maximum(values, self._first), self._last)
        place = np.broadcast_to(self._starts - 1, values.shape).copy()  # of the last point up to the value
        for half in self._halves:  # a search without branches
            place += (self._points.take(place + half, mode="clip") <= values) * half
        values -= self._points.take(place)
        values *= self._slopes.take(place)
        values += self._heights.take(place)
        return values

    def _one_by_one(self, values: Floats) -> Floats:
        return np.stack([np.interp(own, *pair) for own, pair in zip(values, self._pairs, strict=True)])
