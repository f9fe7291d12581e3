"""Significance tests of differences between models, over rows and seeds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from recmtl.evaluate.delong import Clusters, DeLongComponents, mean_components
from recmtl.evaluate.intervals import (
    Interval,
    bootstrap,
    check_level,
    effective_clusters,
    percentile_interval,
    t_quantile,
)
from recmtl.evaluate.metrics import select_metrics, unmeasurable
from recmtl.evaluate.scores import Scores

ROUNDING = 1e-12  # a smaller standard deviation, relative to the difference, counts as 0


@dataclass(frozen=True)
class Difference:
    """A difference between two models with its test.

    Args:
        estimate: The first minus the second.
        low: The lower end of its confidence interval.
        high: The upper end.
        p: The two-sided p-value.
        level: The confidence level.
        sd_rows: The standard deviation of the estimate over draws of the rows.
        sd_seeds: The standard deviation of the difference of single runs over the seeds; ``None`` with one run on each
            side.
    """

    estimate: float
    low: float
    high: float
    p: float
    level: float = 0.95
    sd_rows: float | None = None
    sd_seeds: float | None = None


@dataclass(frozen=True)
class Spread(Interval):
    """A mean over seeds with its t interval.

    Args:
        sd: The standard deviation over the seeds; NaN for a single seed.
    """

    sd: float = float("nan")


def auc_difference(
    first: Sequence[Scores], second: Sequence[Scores], level: float = 0.95, paired: bool = True
) -> Difference | None:
    """Compare the mean AUC of two models over their runs (seeds), all measured on the same rows.

    With one run on each side this is the paired test of DeLong et al. (1988); if the rows have groups, in the clustered
    form of Obuchowski (1997). With more runs the test generalises to other rows and other seeds: the variance is that
    of the rows, from the components of the mean over the runs, plus that of the seeds, i.e. the variance of the mean
    over the runs minus the part that is already in the first (rows and seeds are crossed: Cameron, Gelbach & Miller
    2011). Student's t has Satterthwaite's degrees of freedom for the sum. A side with a single run stands for that run,
    not for its model with other seeds.

    Note: If most of the variance is from the seeds, a nominal 95 % interval covers 95 % with five seeds, about 92 %
        with three and about 87 % with two.

    Args:
        first: The runs of the first model.
        second: The runs of the second, on the same rows.
        level: The confidence level.
        paired: Whether the runs of both have the same seeds in the same order. If not, the variances of both sides add
            up (Welch).

    Returns:
        ``None`` if an AUC is undefined, fewer than two clusters have positives or negatives, or the difference has no
        variance, as between AUCs of 1 and 0.5.

    Raises:
        ValueError: The runs are on different rows, a side has none, paired sides differ in number, or `level` is not in
            (0, 1).
    """
    check_level(level)
    check_runs(first, second, paired)
    clusters = Clusters.of(first[0])
    if any(unmeasurable(run, ["auc"]) for run in (*first, *second)) or not clusters.enough:
        return None
    ours, theirs = ([DeLongComponents.of(run, clusters) for run in runs] for runs in (first, second))
    sides = [[a - b for a, b in zip(ours, theirs, strict=True)]] if paired else [ours, theirs]
    whole = mean_components(ours) - mean_components(theirs)
    rows = max(whole.variance(clusters), 0.0)
    seeds = [SeedVariance.of(side, clusters) for side in sides if len(side) > 1]
    beyond = max(sum(side.total - side.of_rows for side in seeds), 0.0)
    uncertain = rows**2 / whole.degrees(clusters) + (sum(side.uncertain for side in seeds) if beyond else 0.0)
    sd_seeds = sum(side.variance for side in seeds) ** 0.5 if seeds else None
    return t_test(whole.auc, rows + beyond, uncertain, level, rows**0.5, sd_seeds)


def bootstrap_differences(
    first: Scores,
    second: Scores,
    names: Collection[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Return bootstrap intervals for the differences of any metrics of two runs, drawing groups (or rows) jointly.

    Args:
        first: A run.
        second: Another run on the same rows; differences are the first minus the second.
        names: The metrics; ``None`` takes all that the task has.
        draws: The number of draws.
        seed: The seed of the draws.
        level: The confidence level.

    Returns:
        The intervals of the metrics that are defined for both.

    Raises:
        ValueError: The runs are on different rows, `level` is not in (0, 1), or `draws` is below 2.
    """
    check_level(level)
    check_runs([first], [second], paired=True)
    wanted, clusters = select_metrics(first, names), effective_clusters(first)
    blocked = unmeasurable(first, wanted) | unmeasurable(second, wanted)
    measured = [name for name in wanted if name not in blocked]
    if not measured or clusters < 2:
        return {}
    (ours, drawn), (theirs, others) = (bootstrap(run, measured, draws, seed) for run in (first, second))
    return {
        name: interval
        for name, values in zip(measured, (drawn - others).T, strict=True)
        if (interval := percentile_interval(ours[name] - theirs[name], values, clusters, level)) is not None
    }


@dataclass(frozen=True)
class SeedVariance:
    """The variance over the seeds of a mean AUC on the same rows.

    Args:
        variance: The variance of single runs.
        total: The variance of their mean.
        of_rows: The part of `total` that is due to the sample of rows.
        uncertain: `total` squared over its degrees of freedom.
    """

    variance: float
    total: float
    of_rows: float
    uncertain: float

    @classmethod
    def of(cls, runs: Sequence[DeLongComponents], clusters: Clusters) -> SeedVariance:
        """Estimate from at least two runs."""
        n = len(runs)
        variance = float(np.var([run.auc for run in runs], ddof=1))
        single = float(np.mean([run.variance(clusters) for run in runs]))
        total = variance / n
        return cls(variance, total, (single - mean_components(runs).variance(clusters)) / (n - 1), total**2 / (n - 1))


def t_test(
    estimate: float, variance: float, uncertain: float, level: float, sd_rows: float, sd_seeds: float | None
) -> Difference | None:
    """Test a difference by Student's t; `uncertain` is the variance squared over its degrees of freedom.

    Returns:
        ``None`` if the estimated variance of a non-zero difference is 0, as between AUCs of 1 and 0.5, or with two
        seeds of equal loss: the variance is then unknown, not 0.
    """
    if variance <= (ROUNDING * estimate) ** 2:
        same = Difference(estimate, estimate, estimate, 1.0, level, sd_rows, sd_seeds)
        return same if estimate == 0 else None
    degrees, sd = variance**2 / uncertain, variance**0.5
    half = t_quantile(level, degrees) * sd
    p = 2 * float(stats.t.sf(abs(estimate) / sd, degrees))
    return Difference(estimate, estimate - half, estimate + half, p, level, sd_rows, sd_seeds)


def check_runs(first: Sequence[Scores], second: Sequence[Scores], paired: bool) -> None:
    """Check that runs can be compared.

    Raises:
        ValueError: A side has none, paired sides differ in number, or they are on different rows.
    """
    if not first or not second:
        raise ValueError(f"both models need at least one run, got {len(first)} and {len(second)}")
    if paired and len(first) != len(second):
        raise ValueError(f"paired models must have the same number of runs, got {len(first)} and {len(second)}")
    one = first[0]
    for other in (*first, *second):
        if not same_rows(one, other):
            raise ValueError(f"the runs of task {one.task.name!r} must be measured on the same rows, in the same order")


def same_rows(one: Scores, other: Scores) -> bool:
    """Return whether two scores are on the same rows: equal labels, weights and groups, in order."""
    return (
        np.array_equal(one.labels, other.labels)
        and _equal_arrays(one.weight, other.weight)
        and _equal_arrays(one.groups, other.groups)
    )


def _equal_arrays(one: npt.NDArray[np.generic] | None, other: npt.NDArray[np.generic] | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests (Holm 1979): rejecting those below α keeps the family-wise error below α.

    Args:
        p_values: The p-values, in any order.

    Raises:
        ValueError: One is not in [0, 1].
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values must be in [0, 1], got {list(p_values)}")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    adjusted = np.empty_like(p)
    adjusted[order] = steps
    return [float(value) for value in adjusted]


def over_seeds(values: Sequence[float], level: float = 0.95) -> Spread:
    """Return mean, standard deviation and t interval over the seeds of a metric, or of paired differences.

    Args:
        values: A value for each seed.
        level: The confidence level of the interval, for other seeds on the same rows.

    Returns:
        NaN for all but the mean if there is a single value.

    Raises:
        ValueError: There is no value, or `level` is not in (0, 1).
    """
    check_level(level)
    if not len(values):
        raise ValueError("a mean over seeds needs a value, got none")
    mean, n = float(np.mean(values)), len(values)
    if n == 1:
        return Spread(mean, float("nan"), float("nan"), level)
    sd = float(np.std(values, ddof=1))
    half = t_quantile(level, n - 1) * sd / n**0.5
    return Spread(mean, mean - half, mean + half, level, sd)
