"""How far a metric could be from what it would be on all rows that there might have been."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from recmtl.evaluate.delong import Clusters, DeLongComponents
from recmtl.evaluate.metrics import INFLATED, chosen, measure_of, refusals
from recmtl.evaluate.scores import Floats, Scores

DRAWS = 200  # of a bootstrap, where nobody says how many


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Args:
        estimate: The value on the rows at hand.
        low: Where the interval begins.
        high: Where it ends.
        level: How often such intervals hold the true value.
    """

    estimate: float
    low: float
    high: float
    level: float = 0.95


def auc_interval(scores: Scores, level: float = 0.95) -> Interval | None:
    """Give the interval of DeLong et al. (1988) for an AUC; where the rows have groups, that of Obuchowski (1997).

    Rows of a group may be correlated in any way; groups are independent, and without groups rows are. The interval is
    built on log-odds of the AUC, so that it lies within (0, 1), with the quantile of Student's t for as many degrees of
    freedom as the clusters with positives and with negatives give (see `Components.degrees`).

    Args:
        scores: The rows of a binary task.
        level: How often such intervals should hold the true value.

    Returns:
        ``None`` where the AUC is undefined, is 0 or 1, or fewer than two clusters have positives or negatives: the
        rows then say nothing of its variance.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    check_level(level)
    clusters = Clusters.of(scores)
    if refusals(scores, ["auc"]) or not clusters.enough:
        return None
    parts = DeLongComponents.of(scores, clusters)
    variance = parts.variance(clusters)
    if not 0 < parts.auc < 1 or variance <= 0:
        return None
    half = quantile(level, parts.degrees(clusters)) * variance**0.5 / (parts.auc * (1 - parts.auc))
    low, high = special.expit(special.logit(parts.auc) + np.array([-half, half]))
    return Interval(parts.auc, float(low), float(high), level)


def bootstrap_intervals(
    scores: Scores, names: Collection[str] | None = None, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Give intervals for metrics by drawing groups with replacement; rows, where there are no groups.

    The rows are sorted once; each draw weighs them anew, in O(rows). The interval lies between quantiles of the draws:
    percentiles that are moved outwards as Student's t is wider than the normal distribution (Hesterberg 2015), with the
    degrees of freedom of the clusters with positives or with negatives, whichever are fewer; a regression has those of
    all clusters. Draws in which a metric is undefined are left out.

    Note: The expected calibration error has no interval. Rows that come twice make bins look worse than they are, so
    that the draws lie above what is estimated.

    Args:
        scores: The rows.
        names: The metrics; ``None`` takes all that the task has.
        draws: How often to draw.
        seed: Of the draws.
        level: How often such intervals should hold the true value.

    Returns:
        By metric, those that are defined; none where fewer than two clusters have positives or negatives.

    Raises:
        ValueError: `level` is not between 0 and 1, or `draws` is below 2.
    """
    check_level(level)
    wanted = chosen(scores, names)
    refused = refusals(scores, wanted)
    measured = [name for name in wanted if name not in refused and name not in INFLATED]
    count = informative(scores)
    if not measured or count < 2:
        return {}
    estimates, drawn = bootstrap(scores, measured, draws, seed)
    return {
        name: interval
        for name, values in zip(measured, drawn.T, strict=True)
        if (interval := between(estimates[name], values, count, level)) is not None
    }


def intervals_of(
    scores: Scores, names: Collection[str] | None = None, draws: int = DRAWS, level: float = 0.95
) -> dict[str, Interval]:
    """Give the interval of each metric: that of an AUC as `auc_interval` does, the others by the bootstrap.

    Args:
        scores: The rows.
        names: The metrics; ``None`` takes all that the task has.
        draws: How often to draw; 0 leaves out the intervals that come from the bootstrap.
        level: How often such intervals should hold the true value.
    """
    wanted = chosen(scores, names)
    drawn = [name for name in wanted if name != "auc"]
    found = bootstrap_intervals(scores, drawn, draws, level=level) if draws and drawn else {}
    by_delong = auc_interval(scores, level) if "auc" in wanted else None
    return {**({"auc": by_delong} if by_delong else {}), **found}


def between(estimate: float, drawn: Floats, clusters: int, level: float) -> Interval | None:
    """Give the interval between quantiles of the draws of a metric, `None` where it is undefined.

    Shape:
        - drawn: ``[draws]``, NaN where undefined
    """
    values = drawn[np.isfinite(drawn)]
    if not np.isfinite(estimate) or not len(values):
        return None
    tail = float(stats.norm.sf(quantile(level, clusters - 1) * (clusters / (clusters - 1)) ** 0.5))
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(estimate, float(low), float(high), level)


def bootstrap(scores: Scores, names: Collection[str], draws: int, seed: int) -> tuple[dict[str, float], Floats]:
    """Measure rows, and as many draws of their clusters: ``[draws, names]``, the same draws for the same clusters."""
    if draws < 2:
        raise ValueError(f"`draws` must be at least 2, got {draws}")
    _, count = scores.clusters()
    measure, rng = measure_of(scores, list(names)), np.random.default_rng(seed)
    drawn = np.empty((draws, len(names)))
    for row in drawn:
        times = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
        values = measure(times)
        row[:] = [values[name] for name in names]
    return measure(), drawn


def informative(scores: Scores) -> int:
    """Count the clusters with positives or those with negatives, whichever are fewer; of a regression all clusters."""
    if scores.task.kind == "regression":
        return scores.clusters()[1]
    clusters = Clusters.of(scores)
    return int(min(clusters.positive.sum(), clusters.negative.sum()))


def quantile(level: float, degrees: float) -> float:
    """Give the two-sided quantile of Student's t."""
    return float(stats.t.ppf((1 + level) / 2, degrees))


def check_level(level: float) -> None:
    """Refuse a level that is none.

    Raises:
        ValueError: It is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must be between 0 and 1, got {level}")
