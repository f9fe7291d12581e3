"""Significance tests of differences between models, over rows and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from recmtl.evaluate.confidence import check_level, t_quantile
from recmtl.evaluate.delong import Clusters, DeLongComponents
from recmtl.evaluate.intervals import DRAWS, bootstrap
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.metrics import main_metric, select_metrics, unmeasurable
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
        ``None`` if the task has no AUC, one is undefined, fewer than two clusters have positives or negatives, or the
        difference has no variance, as between AUCs of 1 and 0.5.

    Raises:
        ValueError: The runs are on different rows, a side has none, paired sides differ in number, or `level` is not in
            (0, 1).
    """
    check_level(level)
    check_runs(first, second, paired)
    if "auc" not in select_metrics(first[0], None):
        return None
    clusters = Clusters.of(first[0])
    if any(unmeasurable(run, ["auc"]) for run in (*first, *second)) or not clusters.enough:
        return None
    ours, theirs = ([DeLongComponents.of(run, clusters) for run in runs] for runs in (first, second))
    sides = [[a - b for a, b in zip(ours, theirs, strict=True)]] if paired else [ours, theirs]
    sides = [side for side in sides if len(side) > 1]
    whole = DeLongComponents.mean(ours) - DeLongComponents.mean(theirs)
    rows = max(whole.variance(clusters), 0.0)
    seeds = [float(np.var([run.auc for run in side], ddof=1)) for side in sides]  # of single runs
    means = [variance / len(side) for variance, side in zip(seeds, sides, strict=True)]  # of the mean over the runs
    beyond = max(sum(means) - sum(_due_to_rows(side, clusters) for side in sides), 0.0)
    uncertain = rows**2 / whole.degrees(clusters)
    if beyond:
        uncertain += sum(mean**2 / (len(side) - 1) for mean, side in zip(means, sides, strict=True))
    return t_test(whole.auc, rows + beyond, uncertain, level, rows**0.5, sum(seeds) ** 0.5 if seeds else None)


def main_difference(first: Scores, second: Scores, level: float = 0.95, draws: int = DRAWS) -> Difference | None:
    """Compare the `main_metric` of two models on the same rows: by `auc_difference`, or else by a paired bootstrap.

    Both metrics are computed on the same draws of rows (of groups, if there are any). Student's t takes the standard
    deviation of their difference, with the degrees of freedom of `bootstrap_intervals`.

    Args:
        first: The first model.
        second: The second, on the same rows.
        level: The confidence level.
        draws: The number of bootstrap draws.

    Returns:
        ``None`` if a metric is undefined, fewer than two clusters have positives or negatives, or the difference has no
        variance.

    Raises:
        ValueError: The rows are not the same, or `level` is not in (0, 1).
    """
    metric = main_metric(first.task)
    if metric == "auc":
        return auc_difference([first], [second], level)
    check_level(level)
    check_runs([first], [second], paired=True)
    clusters = MEASURES[first.task.kind].effective_clusters(first)
    if clusters < 2 or any(unmeasurable(scores, [metric]) for scores in (first, second)):
        return None
    (ours, our_draws), (theirs, their_draws) = (bootstrap(s, [metric], draws, seed=0) for s in (first, second))
    drawn = (our_draws - their_draws)[:, 0]
    drawn = drawn[np.isfinite(drawn)]
    estimate = ours[metric] - theirs[metric]
    if len(drawn) < 2 or not np.isfinite(estimate):
        return None
    variance = float(drawn.var(ddof=1)) * clusters / (clusters - 1)
    return t_test(estimate, variance, variance**2 / (clusters - 1), level, variance**0.5, None)


def _due_to_rows(runs: Sequence[DeLongComponents], clusters: Clusters) -> float:
    """Estimate the part of the variance of a mean over runs that is due to the sample of rows."""
    single = float(np.mean([run.variance(clusters) for run in runs]))
    return (single - DeLongComponents.mean(runs).variance(clusters)) / (len(runs) - 1)


def t_test(
    estimate: float, variance: float, uncertain: float, level: float, sd_rows: float, sd_seeds: float | None
) -> Difference | None:
    """Test a difference by Student's t; `uncertain` is the variance squared over its degrees of freedom.

    ``None`` if the estimated variance of a non-zero difference is 0, as between AUCs of 1 and 0.5, or with two seeds of
    equal loss: the variance is then unknown, not 0.
    """
    if variance <= (ROUNDING * estimate) ** 2:
        same = Difference(estimate, estimate, estimate, 1.0, level, sd_rows, sd_seeds)
        return same if estimate == 0 else None
    degrees, sd = variance**2 / uncertain, variance**0.5
    half = t_quantile(level, degrees) * sd
    p = 2 * float(special.stdtr(degrees, -abs(estimate) / sd))
    return Difference(estimate, estimate - half, estimate + half, p, level, sd_rows, sd_seeds)


def check_runs(first: Sequence[Scores], second: Sequence[Scores], paired: bool) -> None:
    """Check that both sides have runs, equally many if they are paired, on the same rows."""
    if not first or not second:
        raise ValueError(f"both models need at least one run, got {len(first)} and {len(second)}")
    if paired and len(first) != len(second):
        raise ValueError(f"paired models must have the same number of runs, got {len(first)} and {len(second)}")
    if not all(same_rows(first[0], other) for other in (*first, *second)):
        name = first[0].task.name
        raise ValueError(f"the runs of task {name!r} must be measured on the same rows, in the same order")


def same_rows(one: Scores, other: Scores) -> bool:
    """Return whether two scores are on the same rows: equal labels, weights and groups, in order."""
    fields = ("labels", "weight", "groups")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in fields)  # two `None` are equal


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
