"""Confidence intervals of metrics: DeLong's for the AUC, inverted tests for the ECE, the bootstrap for others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy import special

from recmtl.evaluate.calibration_error import calibration_error
from recmtl.evaluate.confidence import check_level, t_quantile
from recmtl.evaluate.delong import Clusters, DeLongComponents
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.metrics import INFLATED, measure_of, select_metrics, unmeasurable
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, Scores

DRAWS = 200  # default number of bootstrap draws


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Args:
        estimate: The estimate.
        low: The lower end.
        high: The upper end.
        level: The confidence level.
    """

    estimate: float
    low: float
    high: float
    level: float = 0.95


def auc_interval(scores: Scores, level: float = 0.95) -> Interval | None:
    """Return the interval of DeLong et al. (1988) for an AUC; if the rows have groups, that of Obuchowski (1997).

    Groups (without groups, rows) are independent; rows of a group may be correlated. The interval is symmetric in the
    log-odds of the AUC and so within (0, 1); it uses a quantile of Student's t (see `DeLongComponents.degrees`).

    Args:
        scores: The rows of a task.
        level: The confidence level.

    Returns:
        ``None`` if the task has no AUC, if it is undefined, 0 or 1, or fewer than two clusters have positives or
        negatives.

    Raises:
        ValueError: `level` is not between 0 and 1.
    """
    check_level(level)
    if "auc" not in select_metrics(scores, None):
        return None
    clusters = Clusters.of(scores)
    if unmeasurable(scores, ["auc"]) or not clusters.enough:
        return None
    parts = DeLongComponents.of(scores, clusters)
    variance = parts.variance(clusters)
    if not 0 < parts.auc < 1 or variance <= 0:
        return None
    half = t_quantile(level, parts.degrees(clusters)) * variance**0.5 / (parts.auc * (1 - parts.auc))
    low, high = special.expit(special.logit(parts.auc) + np.array([-half, half]))
    return Interval(parts.auc, float(low), float(high), level)


def bootstrap_intervals(
    scores: Scores,
    names: Collection[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    k: int = K,
) -> dict[str, Interval]:
    """Return bootstrap intervals of metrics, drawing groups (without groups, rows) with replacement.

    The rows are sorted once; each draw re-weights them in O(rows). The interval is between percentiles of the draws,
    widened as Student's t is wider than the normal distribution (Hesterberg 2015), with the degrees of freedom of the
    clusters with positives or with negatives, whichever are fewer (other kinds: of all clusters). Draws in which a
    metric is undefined are left out.

    Note: The expected calibration error is left out, because repeated rows inflate it in the draws.

    Args:
        scores: The rows.
        names: The metrics; ``None`` takes all that the task has.
        draws: The number of draws.
        seed: The seed of the draws.
        level: The confidence level.
        k: The cutoff of NDCG and recall.

    Returns:
        The intervals of the defined metrics; none if fewer than two clusters have positives or negatives.

    Raises:
        ValueError: `level` is not between 0 and 1, or `draws` is below 2.
    """
    check_level(level)
    wanted = select_metrics(scores, names, k)
    blocked = unmeasurable(scores, wanted)
    measured = [name for name in wanted if name not in blocked and name not in INFLATED]
    count = MEASURES[scores.task.kind].effective_clusters(scores)
    if not measured or count < 2:
        return {}
    estimates, drawn = bootstrap(scores, measured, draws, seed, k)
    tail = float(special.ndtr(-t_quantile(level, count - 1) * (count / (count - 1)) ** 0.5))
    intervals = {}
    for name, values in zip(measured, drawn.T, strict=True):
        defined = values[np.isfinite(values)]
        if np.isfinite(estimates[name]) and len(defined):
            low, high = np.quantile(defined, [tail, 1 - tail])
            intervals[name] = Interval(estimates[name], float(low), float(high), level)
    return intervals


def intervals_of(
    scores: Scores, names: Collection[str] | None = None, draws: int = DRAWS, level: float = 0.95, k: int = K
) -> dict[str, Interval]:
    """Return the interval of each metric: `auc_interval` for the AUC, `bootstrap_intervals` for the others.

    The interval of the expected calibration error (`ece`) is from `calibration_error`: it is that of the true error,
    without the noise in the estimate, so it may lie below the estimate.

    Args:
        scores: The rows.
        names: The metrics; ``None`` takes all that the task has.
        draws: The number of bootstrap draws; 0 leaves out bootstrap intervals.
        level: The confidence level.
        k: The cutoff of NDCG and recall.
    """
    wanted = select_metrics(scores, names, k)
    drawn = [name for name in wanted if name != "auc"]
    intervals = bootstrap_intervals(scores, drawn, draws, level=level, k=k) if draws and drawn else {}
    delong = auc_interval(scores, level) if "auc" in wanted else None
    error = calibration_error(scores, level) if "ece" in wanted and "ece" not in unmeasurable(scores, ["ece"]) else None
    closed = {"ece": Interval(error.ece, error.low, error.high, level)} if error else {}
    return {**({"auc": delong} if delong else {}), **intervals, **closed}


def bootstrap(
    scores: Scores, names: Collection[str], draws: int, seed: int, k: int = K
) -> tuple[dict[str, float], Floats]:
    """Return metrics and their bootstrap draws ``[draws, names]``; the same seed and clusters give the same draws."""
    if draws < 2:
        raise ValueError(f"`draws` must be at least 2, got {draws}")
    _, count = scores.clusters
    measure, rng = measure_of(scores, list(names), k), np.random.default_rng(seed)
    drawn = np.empty((draws, len(names)))
    for row in drawn:
        times = np.bincount(rng.integers(count, size=count), minlength=count).astype(np.float64)
        values = measure(times)
        row[:] = [values[name] for name in names]
    return measure(), drawn
