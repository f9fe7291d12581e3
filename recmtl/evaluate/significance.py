"""Whether one model is better than another, or the rows and seeds at hand cannot say."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from recmtl.evaluate.delong import Clusters, DeLongComponents, mean
from recmtl.evaluate.intervals import Interval, between, bootstrap, check_level, informative, quantile
from recmtl.evaluate.metrics import chosen, refusals
from recmtl.evaluate.scores import Scores

ROUNDING = 1e-12  # of a difference: a smaller standard deviation is none


@dataclass(frozen=True)
class Difference:
    """A difference between two models, and whether it could be chance.

    Args:
        estimate: The first less the second.
        low: Where its confidence interval begins.
        high: Where it ends.
        p: How often a difference at least as large would come about if there were none.
        level: Of the interval.
        sd_rows: The standard deviation of the estimate over draws of the rows.
        sd_seeds: That of a difference of single runs over the seeds; ``None`` with one run on each side.
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
        sd: The standard deviation over the seeds; NaN with one alone.
    """

    sd: float = float("nan")


def auc_difference(
    first: Sequence[Scores], second: Sequence[Scores], level: float = 0.95, paired: bool = True
) -> Difference | None:
    """Compare the mean AUC of two models over their runs (seeds), all measured on the same rows.

    With one run on each side this is the paired test of DeLong et al. (1988) of these two runs; where the rows have
    groups, in the clustered form of Obuchowski (1997). With more runs it is about what other rows and other seeds would
    give. Two variances add up: that of the rows, from the components of the mean over the runs; and that of the seeds,
    which is the variance of the mean over the runs on these rows, less the part of it that comes from rows telling the
    runs apart and is in the first already (rows and seeds are crossed: Cameron, Gelbach & Miller 2011). Student's t has
    the degrees of freedom that Satterthwaite's formula gives for the sum. A side with one run alone counts as that run,
    not as all that its model might give.

    Note: Where the seeds matter most, five of them hold a nominal 95 %; three hold about 92 %, two about 87 %.

    Args:
        first: A run each, on the same rows.
        second: Likewise.
        level: Of the interval.
        paired: Whether the runs of both share their seeds, one by one. If not, the seeds of each side vary by
            themselves (Welch).

    Returns:
        ``None`` where an AUC is undefined, fewer than two clusters have positives or negatives, or the difference has
        no variance, as where one AUC is 1 and the other 0.5.

    Raises:
        ValueError: The runs are of different rows; there is none; paired ones are not as many; `level` is none.
    """
    check_level(level)
    check_runs(first, second, paired)
    clusters = Clusters.of(first[0])
    if any(refusals(run, ["auc"]) for run in (*first, *second)) or not clusters.enough:
        return None
    ours, theirs = ([DeLongComponents.of(run, clusters) for run in runs] for runs in (first, second))
    sides = [[a - b for a, b in zip(ours, theirs, strict=True)]] if paired else [ours, theirs]
    whole = mean(ours) - mean(theirs)
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
    """Give intervals for the differences of any metrics of two runs, by drawing the groups (or rows) of both alike.

    Args:
        first: A run.
        second: Another on the same rows; what is given is the first less the second.
        names: The metrics; ``None`` takes all that the task has.
        draws: How often to draw.
        seed: Of the draws.
        level: How often such intervals should hold the true difference.

    Returns:
        By metric, those that are defined for both.

    Raises:
        ValueError: The runs are of different rows, `level` is not between 0 and 1, or `draws` is below 2.
    """
    check_level(level)
    check_runs([first], [second], paired=True)
    wanted, clusters = chosen(first, names), informative(first)
    refused = refusals(first, wanted) | refusals(second, wanted)
    measured = [name for name in wanted if name not in refused]
    if not measured or clusters < 2:
        return {}
    (ours, drawn), (theirs, others) = (bootstrap(run, measured, draws, seed) for run in (first, second))
    return {
        name: interval
        for name, values in zip(measured, (drawn - others).T, strict=True)
        if (interval := between(ours[name] - theirs[name], values, clusters, level)) is not None
    }


@dataclass(frozen=True)
class SeedVariance:
    """What the seeds do to a mean over runs on the same rows.

    Args:
        variance: Of single runs.
        total: Of their mean.
        of_rows: The part of `total` that comes from rows which tell the runs apart.
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
        return cls(variance, total, (single - mean(runs).variance(clusters)) / (n - 1), total**2 / (n - 1))


def t_test(
    estimate: float, variance: float, uncertain: float, level: float, sd_rows: float, sd_seeds: float | None
) -> Difference | None:
    """Test a difference by Student's t; `uncertain` is the variance squared over its degrees of freedom.

    Returns:
        ``None`` where a difference seems to have no variance, as between the AUCs 1 and 0.5 of whatever number of rows,
        or the same loss with each of two seeds: then nothing is known of it, which is not certainty.
    """
    if variance <= (ROUNDING * estimate) ** 2:
        same = Difference(estimate, estimate, estimate, 1.0, level, sd_rows, sd_seeds)
        return same if estimate == 0 else None
    degrees, sd = variance**2 / uncertain, variance**0.5
    half = quantile(level, degrees) * sd
    p = 2 * float(stats.t.sf(abs(estimate) / sd, degrees))
    return Difference(estimate, estimate - half, estimate + half, p, level, sd_rows, sd_seeds)


def check_runs(first: Sequence[Scores], second: Sequence[Scores], paired: bool) -> None:
    """Refuse runs that cannot be compared.

    Raises:
        ValueError: There are none, paired ones are not as many, or they are of different rows.
    """
    if not first or not second:
        raise ValueError(f"two models need a run each, got {len(first)} and {len(second)}")
    if paired and len(first) != len(second):
        raise ValueError(f"paired runs must be as many of both models, got {len(first)} and {len(second)}")
    one = first[0]
    for other in (*first, *second):
        if not same_rows(one, other):
            raise ValueError(f"the runs of task {one.task.name!r} must be measured on the same rows, in the same order")


def same_rows(one: Scores, other: Scores) -> bool:
    """Say whether a task was measured twice on the same rows: their labels, weights and groups are equal, in order."""
    return (
        np.array_equal(one.labels, other.labels)
        and _equal(one.weight, other.weight)
        and _equal(one.groups, other.groups)
    )


def _equal(one: npt.NDArray[np.generic] | None, other: npt.NDArray[np.generic] | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for there being several tests (Holm 1979): reject what is below α and one error is as rare as α.

    Args:
        p_values: Of the tests, in any order.

    Raises:
        ValueError: One is not in [0, 1].
    """
    p = np.asarray(p_values, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p values must be in [0, 1], got {list(p_values)}")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    adjusted = np.empty_like(p)
    adjusted[order] = steps
    return [float(value) for value in adjusted]


def over_seeds(values: Sequence[float], level: float = 0.95) -> Spread:
    """Give mean, standard deviation and t interval of a metric over seeds, or of paired differences.

    Args:
        values: One for each seed.
        level: How often such intervals should hold the mean over all seeds, on the rows at hand.

    Returns:
        With one value, NaN for all but the mean.

    Raises:
        ValueError: There is no value, or `level` is none.
    """
    check_level(level)
    if not len(values):
        raise ValueError("a mean over seeds needs a value, got none")
    centre, n = float(np.mean(values)), len(values)
    if n == 1:
        return Spread(centre, float("nan"), float("nan"), level)
    sd = float(np.std(values, ddof=1))
    half = quantile(level, n - 1) * sd / n**0.5
    return Spread(centre, centre - half, centre + half, level, sd)
