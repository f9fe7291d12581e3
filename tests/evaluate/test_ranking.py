import itertools

import numpy as np
import pytest
from naive import BINARY, drawn, ndcg
from sklearn.metrics import ndcg_score, roc_auc_score

from recmtl.evaluate import Scores, by_group, intervals_of, metrics_of
from recmtl.evaluate.scores import scores_of
from recmtl.schema import Task

AMOUNT = Task("seconds", "seconds", kind="amount")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_each_group_equals_scikit_learn(k: int, weighted: bool) -> None:
    scores = drawn(600, groups=60, weighted=weighted)
    found = by_group(scores, k)
    assert scores.groups is not None
    assert list(found.index) == sorted(set(scores.groups))
    for group, row in found.iterrows():
        inside = scores.groups == group
        y, p = scores.labels[inside], scores.predictions[inside]
        w = np.ones(len(y)) if scores.weight is None else scores.weight[inside]
        assert (row.rows, row.weight, row.positives) == (len(y), w.sum(), y.sum())
        if y.min() == y.max():
            assert np.isnan([row.auc, row.ndcg, row.recall]).all()
            continue
        assert row.auc == pytest.approx(roc_auc_score(y, p, sample_weight=w), abs=1e-12)
        assert row.ndcg == pytest.approx(ndcg_score([y * w], [p], k=k), abs=1e-12)  # ties averaged there, too


def test_ties_count_with_the_mean_over_all_their_orders() -> None:
    labels, predictions = np.array([1.0, 0, 1, 0, 0]), np.array([0.5, 0.5, 0.5, 0.9, 0.1])
    weight = np.array([1.0, 1, 2, 1, 1])
    found = by_group(Scores(BINARY, labels, predictions, weight, np.zeros(5, np.int64)), k=2).iloc[0]
    dcg, recall = [], []
    for order in itertools.permutations([0, 1, 2]):
        top = [3, *order][:2]
        dcg.append(sum(labels[row] * weight[row] / np.log2(2 + place) for place, row in enumerate(top)))
        recall.append(sum(labels[row] * weight[row] for row in top) / 3)
    assert found.ndcg == pytest.approx(np.mean(dcg) / (2 + 1 / np.log2(3)))
    assert found.recall == pytest.approx(np.mean(recall))


def test_a_constant_predictor_scores_like_chance() -> None:
    labels = np.array([1.0, 0, 0, 0, 0, 1, 0, 0])
    scores = Scores(BINARY, labels, np.full(8, 0.3), groups=np.zeros(8, np.int64))
    row = by_group(scores, k=2).iloc[0]
    assert (row.auc, row.recall) == (0.5, 0.25)
    assert row.ndcg == pytest.approx(0.25)  # each place holds a positive one time in four


@pytest.mark.parametrize("labels", [[1.0, 0, 1, 0], [0.0, 1, 0, 1], [1.0, 1, 0, 0]])
def test_a_row_of_a_thinned_file_takes_the_places_of_the_rows_it_stands_for(labels: list[float]) -> None:
    """Rows kept at the rate 0.25 stand for four of their kind, be they positive or negative for the task."""
    taken, predictions = np.array([1, 4, 1, 4]), np.array([0.9, 0.8, 0.7, 0.1])
    kept = scores_of(BINARY, np.array(labels), predictions, None, np.zeros(4, np.int64), None, taken.astype(float))
    whole = Scores(BINARY, np.repeat(labels, taken), np.repeat(predictions, taken), groups=np.zeros(10, np.int64))
    for k in (1, 2, 4, 5, 6, 7, 10):
        one, all_ = by_group(kept, k).iloc[0], by_group(whole, k).iloc[0]
        assert [one.auc, one.ndcg, one.recall] == pytest.approx([all_.auc, all_.ndcg, all_.recall])


def test_averages_are_over_groups_with_both_classes() -> None:
    scores = Scores(
        BINARY,
        labels=np.array([1.0, 0, 0, 1, 0, 0, 0, 1]),
        predictions=np.array([0.9, 0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3]),
        groups=np.array([5, 5, 5, 2, 2, 9, 9, 1]),  # AUC 1 of three impressions, 0 of two; one class twice
    )
    metrics = metrics_of(scores, k=1)
    assert metrics.values["gauc"] == pytest.approx(3 / 5)
    assert metrics.values["ndcg@1"] == metrics.values["recall@1"] == 0.5
    assert (metrics.groups, metrics.groups_left_out) == (4, 2)
    assert metrics.to_dict()["groups_left_out"] == 2


def test_weights_count_impressions_and_positives() -> None:
    labels, predictions = np.array([1.0, 0, 1, 0]), np.array([0.9, 0.1, 0.1, 0.9])
    scores = Scores(BINARY, labels, predictions, np.array([3.0, 1, 1, 1]), np.array([0, 0, 1, 1]))
    metrics = metrics_of(scores, k=1)
    assert metrics.values["gauc"] == pytest.approx(4 / 6)
    assert metrics.values["ndcg@1"] == pytest.approx(3 / 4)


def test_no_group_with_both_classes_gives_a_reason() -> None:
    metrics = metrics_of(Scores(BINARY, np.array([1.0, 0.0]), np.array([0.9, 0.1]), groups=np.array([0, 1])))
    assert metrics.values["gauc"] is metrics.values["ndcg@10"] is None
    assert metrics.values["auc"] == 1.0
    assert metrics.reason == "no group has both classes"


def test_missing_groups_are_an_error() -> None:
    with pytest.raises(ValueError, match="metrics by group need `groups`, got rows without"):
        by_group(drawn(5))
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        by_group(drawn(5, groups=2), 0)


def amounts(weighted: bool) -> Scores:
    """60 groups of 1 to 6 rows, with zeros, ties of labels and predictions, and groups of equal labels."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(60) * 7 + 3, rng.integers(1, 7, 60)))
    labels = np.where(groups % 5, rng.integers(0, 4, len(groups)) * rng.choice([1.0, 90.5], len(groups)), 2.5)
    weight = rng.choice([0.5, 1.0, 3.0], len(groups)) if weighted else None
    return Scores(AMOUNT, labels, rng.integers(-2, 3, len(groups)) / 2, weight, groups)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_ndcg_of_amounts_is_that_of_all_orders_and_of_scikit_learn(k: int, weighted: bool) -> None:
    scores, left_out = amounts(weighted), 0
    found = by_group(scores, k)
    assert scores.groups is not None
    assert list(found) == ["rows", "weight", "labels", "gain", "ndcg"]
    assert list(found.index) == sorted(set(scores.groups))
    parts, shares = [], []
    for group, row in found.iterrows():
        inside = scores.groups == group
        y, p = scores.labels[inside], scores.predictions[inside]
        w = np.ones(len(y)) if scores.weight is None else scores.weight[inside]
        assert (row.rows, row.weight, row.labels) == (len(y), w.sum(), y.sum())
        if len(set(y)) == 1:
            assert np.isnan(row.ndcg)
            left_out += 1
            continue
        assert row.ndcg == pytest.approx(ndcg(y * w, p, k), abs=1e-12)
        assert row.ndcg == pytest.approx(ndcg_score([y * w], [p], k=k), abs=1e-12)
        parts.append(row.ndcg)
        shares.append((y @ w) / y.sum())
    metrics = metrics_of(scores, k)
    assert metrics.values[f"ndcg@{k}"] == pytest.approx(np.average(parts, weights=shares), abs=1e-12)
    assert (metrics.groups, metrics.groups_left_out) == (60, left_out)
    assert 10 < left_out < 50


def test_labels_of_0_and_1_have_the_ndcg_of_a_binary_task() -> None:
    for weighted in (False, True):
        binary = drawn(600, groups=60, weighted=weighted)
        found = by_group(Scores(AMOUNT, binary.labels, binary.predictions, binary.weight, binary.groups))
        np.testing.assert_allclose(found.ndcg, by_group(binary).ndcg, rtol=1e-12)


def test_an_amount_of_a_thinned_file_takes_the_places_of_the_rows_it_stands_for() -> None:
    taken, labels, predictions = np.array([1, 4, 1, 4]), np.array([3.0, 0.5, 0, 2]), np.array([0.9, 0.8, 0.7, 0.1])
    kept = scores_of(AMOUNT, labels, predictions, None, np.zeros(4, np.int64), None, taken.astype(float))
    whole = Scores(AMOUNT, np.repeat(labels, taken), np.repeat(predictions, taken), groups=np.zeros(10, np.int64))
    for k in (1, 2, 4, 5, 6, 7, 10):
        assert by_group(kept, k).ndcg.item() == pytest.approx(by_group(whole, k).ndcg.item())


def test_ndcg_of_amounts_has_an_interval_and_a_reason_where_it_is_undefined() -> None:
    scores = amounts(weighted=False)
    interval = intervals_of(scores, ["ndcg@10"], draws=100)["ndcg@10"]
    assert interval.low < interval.estimate < interval.high
    labels = np.array([1.0, 1, 2, 2])
    metrics = metrics_of(Scores(AMOUNT, labels, labels, groups=np.array([0, 0, 1, 1])))
    assert (metrics.values["ndcg@10"], metrics.values["gini"]) == (None, 1.0)
    assert (metrics.groups_left_out, metrics.reason) == (2, "no group has different labels")
    nearly = np.array([1.0, 1, 1, 1 + 1e-15])
    ungrouped = metrics_of(Scores(AMOUNT, nearly, nearly))
    assert (ungrouped.values["gini"], ungrouped.reason) == (None, "every label is the same")


def test_regressions_and_classes_have_no_metrics_by_group() -> None:
    zeros = np.zeros(2)
    for task in (Task("stay", "stay", kind="regression"), Task("stars", "stars", kind="multiclass")):
        with pytest.raises(ValueError, match=f"of binary tasks and amounts, got one of kind '{task.kind}'"):
            by_group(Scores(task, zeros, zeros, groups=np.zeros(2, np.int64)))


def test_no_rows_have_no_groups() -> None:
    for task in (BINARY, AMOUNT):
        assert by_group(Scores(task, np.zeros(0), np.zeros(0), groups=np.zeros(0, np.int64))).empty
