"""Statistics of the rows of all days, from those of the days before and those of another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from recmtl.schema.features import Binned, Numeric
from recmtl.schema.fitted import FittedSchema, LabelRate, Moments
from recmtl.schema.tasks import LabelKey

Floats = npt.NDArray[np.float64]
MAX_KNOTS = 129  # of each numeric feature with the transform `knots`


def updated_statistics(old: FittedSchema, day: FittedSchema) -> dict[str, Any]:
    """Return the statistics of numbers, bins and binary labels over all days, as fields of a fitted schema.

    Moments and ranges are exact, quantiles, knots and bins are those of the points that both have, weighted by their
    rows. The means of the labels of regressions stay, as the outputs of the model are in units of them.
    """
    moments, quantiles, medians = dict(old.moments), dict(old.quantiles), dict(old.medians)
    ranges = dict(old.ranges)
    for feature in old.schema.numbers:
        name = feature.name
        rows = [fitted.history.rows * (1 - fitted.missing[name]) for fitted in (old, day)]
        if not rows[1]:
            continue
        if name in day.ranges:
            limits = [fitted.ranges[name] for fitted in (old, day) if name in fitted.ranges]
            ranges[name] = min(low for low, _ in limits), max(high for _, high in limits)
        points = [np.array(fitted.quantiles[name]) for fitted in (old, day)]
        if isinstance(feature, Binned):
            edges = merged_edges(points, [fitted.ranges.get(name, (0.0, 0.0)) for fitted in (old, day)], rows, feature)
            quantiles[name] = tuple(edges.tolist())
            continue
        moments[name] = merged_moments((old.moments[name], day.moments[name]), rows)
        found = merged_points(points, rows, feature)
        quantiles[name] = tuple(found.tolist())
        if name in medians:
            medians[name] = (
                old.medians[name] if not rows[0] else float(weighted_quantiles(points, rows, np.array([0.5]))[0])
            )
    return {
        "moments": moments,
        "quantiles": quantiles,
        "medians": medians,
        "ranges": ranges,
        "rates": merged_rates(old, old.rates, day.rates),
    }


def merged_moments(parts: tuple[Moments, Moments], rows: list[float]) -> Moments:
    """Return mean and deviation of all rows (Chan's update)."""
    (mean, deviation), (other, other_deviation) = parts
    share = rows[1] / sum(rows)
    merged = mean + share * (other - mean)
    variance = (1 - share) * (deviation**2 + (mean - merged) ** 2) + share * (
        other_deviation**2 + (other - merged) ** 2
    )
    return Moments(merged, float(np.sqrt(variance)))


def merged_points(points: list[Floats], rows: list[float], feature: Numeric) -> Floats:
    """Return the knots of a feature, or its quantiles, of all rows."""
    if feature.transform == "knots":
        union = np.unique(np.concatenate([own for own, count in zip(points, rows, strict=True) if count]))
        if len(union) <= MAX_KNOTS:
            return union
        return np.unique(weighted_quantiles(points, rows, np.linspace(0, 1, MAX_KNOTS)))
    return weighted_quantiles(points, rows, np.linspace(0, 1, max(map(len, points))))


def weighted_quantiles(points: list[Floats], rows: list[float], shares: Floats) -> Floats:
    """Return the lowest point at or below which each share of the rows lies; the points of a part share its rows."""
    values = np.concatenate(points)
    weights = np.concatenate([np.full(len(own), count / len(own)) for own, count in zip(points, rows, strict=True)])
    values, weights = values[weights > 0], weights[weights > 0]
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order]) / weights.sum()
    places = np.searchsorted(below, np.asarray(shares) - 1e-9)
    found: Floats = values[order][np.minimum(places, len(values) - 1)]
    return found


def merged_edges(points: list[Floats], limits: list[tuple[float, float]], rows: list[float], feature: Binned) -> Floats:
    """Return the edges between bins of about equal shares of all rows: some of the edges of both parts."""
    parts = [part for part in zip(points, limits, rows, strict=True) if part[2]]
    high = max(limit for _, (_, limit), _ in parts)
    candidates = np.unique(np.concatenate([*(edges for edges, _, _ in parts), [limit for _, (_, limit), _ in parts]]))
    candidates = candidates[candidates < high]
    if not len(candidates):
        return candidates
    shares_below = [count * _share_below(candidates, edges, limit) for edges, limit, count in parts]
    below: Floats = np.sum(shares_below, axis=0) / sum(rows)
    shares = np.arange(1, feature.bins) / feature.bins
    found: Floats = candidates[np.unique(np.abs(below[:, None] - shares).argmin(axis=0))]  # those nearest to them
    return found


def _share_below(values: Floats, edges: Floats, limits: tuple[float, float]) -> Floats:
    """Return the share of a part's rows at or below values, given the edges of its bins of equal shares."""
    known = np.array([*edges, limits[1]])
    shares = np.arange(1, len(known) + 1) / len(known)
    low = limits[0] if limits[0] < known[0] else known[0]
    found: Floats = np.interp(values, known, shares, left=0.0)
    if low < known[0]:
        found = np.interp(values, [low, *known], [0.0, *shares])
    return found


def merged_rates(
    schema: FittedSchema, old: Mapping[LabelKey, LabelRate], day: Mapping[LabelKey, LabelRate]
) -> dict[LabelKey, LabelRate]:
    """Return rows and mean of each binary label, weighted by the rows; those of regressions stay."""
    found = {}
    for key, (rows, mean) in old.items():
        own = day[key]
        both = rows + own.rows
        if key[0] not in schema.schema.binary_labels or not both:
            found[key] = old[key]
        else:
            found[key] = LabelRate(both, mean + own.rows / both * (own.mean - mean))
    return found
