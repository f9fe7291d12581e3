import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from naive import BINARY, auc, drawn, kernel, obuchowski
from scipy import stats

from recmtl.evaluate import Scores, auc_difference, holm, metrics_of, scores_of
from recmtl.evaluate.delong import Clusters, DeLongComponents
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.metrics import main_metric
from recmtl.evaluate.significance import main_difference
from recmtl.schema import Task


def runs(first: Scores, count: int, noise: float, seed: int = 1) -> list[Scores]:
    """Other predictions for the same rows."""
    rng = np.random.default_rng(seed)
    shape = (count, len(first))
    return [dataclasses.replace(first, predictions=p) for p in first.predictions + noise * rng.normal(size=shape)]


@pytest.mark.parametrize("groups", [None, 12])
@pytest.mark.parametrize("weighted", [False, True])
def test_two_runs_equal_the_published_formula(groups: int | None, weighted: bool) -> None:
    first = drawn(120, groups=groups, weighted=weighted)
    (second,) = runs(first, 1, 0.3)
    found = auc_difference([first], [second])
    assert found is not None
    assert found.estimate == pytest.approx(auc(first) - auc(second), abs=1e-13)
    assert found.sd_rows == pytest.approx(obuchowski(first, second) ** 0.5, rel=1e-12)
    assert found.sd_seeds is None
    (opposite,) = [auc_difference([second], [first])]
    assert opposite is not None
    assert (opposite.low, opposite.high, opposite.p) == pytest.approx((-found.high, -found.low, found.p))


def test_the_test_and_the_interval_agree() -> None:
    first = drawn(200)
    for noise in (0.05, 0.15, 0.3):
        found = auc_difference([first], runs(first, 1, noise), level=0.9)
        assert found is not None
        assert (found.p < 0.1) == (found.low > 0 or found.high < 0)
        assert found.low < found.estimate < found.high


def test_without_groups_the_test_is_delongs() -> None:
    first = drawn(90)
    (second,) = runs(first, 1, 0.3)
    psi = kernel(first) - kernel(second)
    positive, negative = psi.mean(1).var(ddof=1) / len(psi), psi.mean(0).var(ddof=1) / psi.shape[1]
    found = auc_difference([first], [second])
    assert found is not None
    degrees = (positive + negative) ** 2 / (positive**2 / (len(psi) - 1) + negative**2 / (psi.shape[1] - 1))
    statistic = psi.mean() / (positive + negative) ** 0.5
    assert found.p == pytest.approx(2 * stats.t.sf(abs(statistic), degrees))


def components(scores: Scores) -> np.ndarray:
    """The contribution of each cluster ``[clusters]``, from the definition."""
    part = DeLongComponents.of(scores, Clusters.of(scores))
    return part.positive + part.negative


@pytest.mark.parametrize("paired", [True, False])
def test_variances_of_rows_and_seeds_add_up(paired: bool) -> None:
    """The seeds' variance minus the variance of the rows' contributions between the runs, from the definition."""
    base = drawn(4000, levels=5000, groups=900)
    first = runs(base, 4, 0.05, seed=1)
    second = runs(base, 4, 0.1, seed=2)
    for run, drop in zip(second, (0.0, 0.2, 0.5, 1.0), strict=True):
        run.predictions[:1000] += drop * np.random.default_rng(3).normal(size=1000)  # some runs are much worse
    found = auc_difference(first, second, paired=paired)
    assert found is not None
    ours, theirs = ([auc(run) for run in side] for side in (first, second))
    assert found.estimate == pytest.approx(np.mean(ours) - np.mean(theirs))
    u, v = (np.array([components(run) for run in side]) for side in (first, second))  # [runs, clusters]
    if paired:
        seeds, within = np.var(np.subtract(ours, theirs), ddof=1), (u - v).var(0, ddof=1).sum()
    else:
        seeds = np.var(ours, ddof=1) + np.var(theirs, ddof=1)
        within = u.var(0, ddof=1).sum() + v.var(0, ddof=1).sum()
    rows = ((u.mean(0) - v.mean(0)) ** 2).sum()
    assert found.sd_seeds == pytest.approx(seeds**0.5)
    assert found.sd_rows == pytest.approx(rows**0.5, rel=2e-3)  # but for clusters / (clusters − 1)
    assert seeds > within
    sd = (rows + (seeds - within) / 4) ** 0.5
    assert found.high - found.low > 2 * 1.96 * sd  # few seeds: a wider quantile
    degrees = stats.t.ppf(0.975, 3) * 2 * sd
    assert found.high - found.low < 1.01 * degrees


def test_a_run_repeated_adds_nothing() -> None:
    first = drawn(100)
    (second,) = runs(first, 1, 0.3)
    one, three = auc_difference([first], [second]), auc_difference([first] * 3, [second] * 3)
    assert one is not None
    assert three is not None
    assert (three.low, three.high, three.p) == pytest.approx((one.low, one.high, one.p))
    assert three.sd_seeds == pytest.approx(0, abs=1e-12)


def test_a_model_does_not_differ_from_itself() -> None:
    scores = drawn(50, groups=9)
    found = auc_difference([scores], [scores])
    assert found is not None
    assert (found.estimate, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_runs_on_different_rows_are_an_error() -> None:
    first = drawn(50, groups=5, weighted=True)
    for other in (
        dataclasses.replace(first, labels=1 - first.labels),
        dataclasses.replace(first, weight=None),
        dataclasses.replace(first, groups=np.arange(50)),
    ):
        with pytest.raises(ValueError, match="the runs of task 't' must be measured on the same rows"):
            auc_difference([first], [other])
    with pytest.raises(ValueError, match="paired models must have the same number of runs, got 1 and 2"):
        auc_difference([first], [first, first])
    with pytest.raises(ValueError, match="both models need at least one run, got 0 and 1"):
        auc_difference([], [first], paired=False)
    one_class = Scores(BINARY, np.zeros(3), np.arange(3) / 3)
    assert auc_difference([one_class], [one_class]) is None


def test_holm_worked_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"p-values must be in \[0, 1\], got \[0.5, nan\]"):
        holm([0.5, float("nan")])


@pytest.mark.parametrize("weight", [None, np.array([0.3, 1.7, 0.11, 0.9])])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("other", [[0.5, 0.5, 0.5, 0.5], [0.9, 0.8, 0.2, 0.1]])
def test_a_difference_without_variance_is_not_tested(weight: np.ndarray | None, count: int, other: list[float]) -> None:
    """AUCs of 1 and of 0 or 1/2 on four rows: the estimated variance is 0, the true one unknown."""
    labels = np.array([0.0, 0.0, 1.0, 1.0])
    best = Scores(BINARY, labels, np.array([0.1, 0.2, 0.8, 0.9]), weight)
    worst = dataclasses.replace(best, predictions=np.array(other))
    assert auc_difference([best] * count, [worst] * count) is None
    same = auc_difference([best] * count, [best] * count)
    assert same is not None
    assert (same.estimate, same.p) == (0, 1)


@pytest.mark.parametrize("kind", ["multiclass", "amount", "regression"])
def test_main_metrics_are_compared_on_the_same_draws(kind: str) -> None:
    """Beside draws of the rows themselves."""
    rng, task = np.random.default_rng(3), Task("t", "t", kind=kind, classes=("a", "b", "c") * (kind == "multiclass"))
    labels = rng.integers(0, 3, 80).astype(float)
    shape = (2, 80, 3) if kind == "multiclass" else (2, 80)
    models = rng.uniform(0.1, 1, shape)
    if kind == "multiclass":
        models[0, np.arange(80), labels.astype(int)] += 0.3
        models /= models.sum(-1, keepdims=True)
    first, second = (scores_of(task, labels, predictions) for predictions in models)
    metric, draw = main_metric(task), np.random.default_rng(0)

    def difference(rows: npt.NDArray[np.int64]) -> float:
        one, other = (metrics_of(scores_of(task, labels[rows], p[rows])).values[metric] for p in models)
        return one - other

    drawn = [difference(draw.integers(80, size=80)) for _ in range(50)]
    found, opposite = main_difference(first, second, draws=50), main_difference(second, first, draws=50)
    assert found.estimate == pytest.approx(difference(np.arange(80)))
    count = MEASURES[kind].effective_clusters(first)
    assert found.sd_rows == pytest.approx(np.std(drawn, ddof=1) * (count / (count - 1)) ** 0.5, rel=1e-9)
    assert (found.high - found.estimate) / found.sd_rows == pytest.approx(stats.t.ppf(0.975, count - 1))
    assert (opposite.low, opposite.high, opposite.p) == pytest.approx((-found.high, -found.low, found.p))
    assert main_difference(first, first).p == 1
