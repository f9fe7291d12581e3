import dataclasses

import numpy as np
import pytest
from naive import BINARY, auc, drawn, obuchowski, repeated
from scipy import stats
from sklearn.metrics import roc_auc_score

from recmtl.evaluate import Scores, auc_interval, bootstrap_intervals, metrics_of
from recmtl.evaluate.delong import Clusters, DeLongComponents
from recmtl.evaluate.intervals import bootstrap
from recmtl.schema import Task


def variance(scores: Scores) -> float:
    clusters = Clusters.of(scores)
    return DeLongComponents.of(scores, clusters).variance(clusters)


@pytest.mark.parametrize("groups", [None, 12])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("levels", [2, 7, 10**6])
def test_the_variance_equals_the_published_formula(groups: int | None, weighted: bool, levels: int) -> None:
    scores = drawn(120, levels=levels, groups=groups, weighted=weighted)
    assert DeLongComponents.of(scores, Clusters.of(scores)).auc == pytest.approx(auc(scores), abs=1e-14)
    assert variance(scores) == pytest.approx(obuchowski(scores), abs=1e-14, rel=1e-12)


def test_without_groups_the_variance_is_delongs() -> None:
    """DeLong et al. 1988: the sample variances of the two kinds of components, over their numbers."""
    scores = drawn(90)
    x, y = scores.predictions[scores.labels == 1], scores.predictions[scores.labels == 0]
    psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    assert variance(scores) == pytest.approx(
        psi.mean(1).var(ddof=1) / len(x) + psi.mean(0).var(ddof=1) / len(y), rel=1e-12
    )


def test_worked_by_hand() -> None:
    """Positives 0.8, 0.4 and negatives 0.6, 0.2: components 1, 1/2 and 1/2, 1 about the AUC of 3/4."""
    scores = Scores(BINARY, np.array([1.0, 1, 0, 0]), np.array([0.8, 0.4, 0.6, 0.2]))
    assert variance(scores) == pytest.approx(0.125 / 2 + 0.125 / 2)
    clusters = Clusters.of(scores)
    assert DeLongComponents.of(scores, clusters).degrees(clusters) == pytest.approx(2)  # two variances of 1 degree each
    interval = auc_interval(scores)
    assert interval is not None
    half = stats.t.ppf(0.975, 2) * 0.125**0.5 / (0.75 * 0.25)
    odds = np.log(3) + np.array([-half, half])
    assert (interval.low, interval.high) == pytest.approx(tuple(1 / (1 + np.exp(-odds))))
    assert (interval.estimate, interval.level) == (0.75, 0.95)


def test_a_group_of_copies_equals_one_weighted_row() -> None:
    """Copies do not narrow the interval; weights are not counts of independent rows."""
    scores = drawn(60)
    times = np.random.default_rng(1).integers(1, 5, 60)
    weighed = dataclasses.replace(scores, weight=times.astype(float))
    copies = repeated(dataclasses.replace(scores, groups=np.arange(60)), times)
    assert variance(copies) == pytest.approx(variance(weighed), rel=1e-12)
    assert variance(dataclasses.replace(copies, groups=None)) < 0.7 * variance(copies)
    one, other = auc_interval(copies), auc_interval(weighed)
    assert one is not None
    assert other is not None
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


@pytest.mark.parametrize(
    ("labels", "predictions", "groups"),
    [
        ([0.0, 0, 0], [0.1, 0.2, 0.3], None),
        ([1.0, 0, 0], [0.2, 0.1, 0.3], None),  # one positive
        ([1.0, 1, 0, 0], [0.4, 0.2, 0.1, 0.3], [0, 0, 1, 2]),  # all positives in one group
        ([1.0, 1, 0, 0], [0.8, 0.9, 0.1, 0.2], None),  # an AUC of 1
        ([1.0, 1, 0, 0], [0.5, 0.5, 0.5, 0.5], None),  # all tied
        ([1.0, 1, 0, 0], [0.5, np.nan, 0.5, 0.5], None),
        ([], [], None),
    ],
)
def test_no_interval_without_variance(labels: list[float], predictions: list[float], groups: list[int] | None) -> None:
    codes = None if groups is None else np.array(groups)
    assert auc_interval(Scores(BINARY, np.array(labels), np.array(predictions), None, codes)) is None


def test_intervals_widen_with_the_level_within_bounds() -> None:
    scores = Scores(BINARY, np.array([1.0, 1, 1, 0, 0, 0]), np.array([0.9, 0.8, 0.3, 0.4, 0.2, 0.1]))
    wide, narrow = auc_interval(scores, 0.99), auc_interval(scores, 0.5)
    assert wide is not None
    assert narrow is not None
    assert 0 < wide.low < narrow.low < narrow.estimate < narrow.high < wide.high < 1
    with pytest.raises(ValueError, match="`level` must be between 0 and 1, got 95"):
        auc_interval(scores, 95)


@pytest.mark.parametrize("groups", [None, 15])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_draw_equals_its_rows_repeated(groups: int | None, weighted: bool) -> None:
    scores = drawn(80, groups=groups, weighted=weighted)
    names = ["auc", "logloss", "pr_auc", "ne", "calibration", "ece"]
    _, found = bootstrap(scores, names, 5, seed=3)
    rng = np.random.default_rng(3)
    codes, count = scores.clusters
    for values in found:
        drawn_clusters = rng.integers(count, size=count)
        rows = np.concatenate([np.flatnonzero(codes == cluster) for cluster in drawn_clusters])
        weight = None if scores.weight is None else scores.weight[rows]
        expected = metrics_of(Scores(BINARY, scores.labels[rows], scores.predictions[rows], weight), names=names)
        assert dict(zip(names, values, strict=True)) == pytest.approx(expected.values, abs=1e-12)
        assert values[0] == pytest.approx(
            roc_auc_score(scores.labels[rows], scores.predictions[rows], sample_weight=weight), abs=1e-12
        )


def test_a_group_drawn_twice_is_two_groups() -> None:
    scores = drawn(80, groups=15, weighted=True)
    assert scores.groups is not None
    assert scores.weight is not None
    names = ["gauc", "ndcg@10", "recall@10"]
    _, found = bootstrap(scores, names, 5, seed=3)
    rng = np.random.default_rng(3)
    codes, count = scores.clusters
    for values in found:
        parts = [np.flatnonzero(codes == cluster) for cluster in rng.integers(count, size=count)]
        rows, groups = np.concatenate(parts), np.repeat(np.arange(count), [len(part) for part in parts])
        again = Scores(BINARY, scores.labels[rows], scores.predictions[rows], scores.weight[rows], groups)
        assert dict(zip(names, values, strict=True)) == pytest.approx(metrics_of(again, names=names).values)


def test_bootstrap_of_regressions() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=50)
    scores = Scores(Task("t", "t", kind="regression"), y, y + rng.normal(size=50), groups=np.arange(50) // 5)
    _, found = bootstrap(scores, ["mae", "rmse", "r2"], 3, seed=1)
    draws = np.random.default_rng(1)
    for values in found:
        rows = np.concatenate([np.flatnonzero(scores.groups == g) for g in draws.integers(10, size=10)])
        drawn_rows = Scores(scores.task, y[rows], scores.predictions[rows])
        assert list(values) == pytest.approx(list(metrics_of(drawn_rows).values.values()))


def test_bootstrap_agrees_with_delong() -> None:
    scores = drawn(3000, levels=1000, groups=400)
    closed, found = auc_interval(scores), bootstrap_intervals(scores)
    assert closed is not None
    values = {name: value for name, value in metrics_of(scores).values.items() if name != "ece"}
    assert set(found) == set(values)
    assert found["auc"].high - found["auc"].low == pytest.approx(closed.high - closed.low, rel=0.1)
    for name, value in values.items():
        assert found[name].estimate == value
        assert found[name].low < found[name].high


def test_undefined_metrics_and_draws_are_left_out() -> None:
    few = Scores(
        BINARY, np.array([1.0, 1, 0, 0, 0]), np.array([0.5, 0.2, 0.1, 0.6, 0.3])
    )  # some draws have no positive
    found = bootstrap_intervals(few, ["auc", "logloss"], draws=200)
    assert 0 <= found["auc"].low < found["auc"].high <= 1
    assert bootstrap_intervals(Scores(BINARY, np.eye(5)[0], few.predictions)) == {}  # one positive
    assert bootstrap_intervals(Scores(BINARY, np.zeros(0), np.zeros(0))) == {}
    with pytest.raises(ValueError, match="`draws` must be at least 2, got 1"):
        bootstrap_intervals(few, draws=1)


def test_the_seed_decides_the_draws() -> None:
    scores = drawn(50)
    assert bootstrap_intervals(scores, draws=20, seed=4) == bootstrap_intervals(scores, draws=20, seed=4)
    assert bootstrap_intervals(scores, draws=20, seed=4) != bootstrap_intervals(scores, draws=20, seed=5)


def test_few_positives_widen_the_quantiles() -> None:
    """Six positives: Student's t of five degrees, widened by the square root of 6 / 5."""
    rng = np.random.default_rng(0)
    scores = Scores(BINARY, (np.arange(200) < 6).astype(float), rng.random(200))
    interval = bootstrap_intervals(scores, ["logloss"], draws=999, seed=2)["logloss"]
    _, found = bootstrap(scores, ["logloss"], 999, seed=2)
    tail = stats.norm.cdf(stats.t.ppf(0.025, 5) * (6 / 5) ** 0.5)
    assert tail < 0.005
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(found, [tail, 1 - tail])))


def test_ece_has_no_bootstrap_interval() -> None:
    """For a calibrated model, nearly all draws have a larger calibration error than the rows themselves."""
    rng = np.random.default_rng(0)
    predictions = rng.random(2000)
    scores = Scores(BINARY, (rng.random(2000) < predictions).astype(float), predictions)
    estimates, found = bootstrap(scores, ["ece"], 200, seed=0)
    assert (found[:, 0] > estimates["ece"]).mean() > 0.75
    intervals = bootstrap_intervals(scores, draws=20)
    assert set(intervals) == {"auc", "logloss", "pr_auc", "ne", "calibration"}
