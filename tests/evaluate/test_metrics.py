import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl.evaluate import Metrics, binary_metrics, metrics_of, scores_of, table
from recmtl.schema import Task


def pairwise_auc(labels: np.ndarray, scores: np.ndarray, weight: np.ndarray) -> float:
    """The definition: the (weighted) share of pairs in the right order, ties half."""
    won = total = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pair = weight[i] * weight[j]
            won += pair * (0.5 * (scores[i] == scores[j]) + (scores[i] > scores[j]))
            total += pair
    return won / total


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_auc_counts_pairs_with_ties_and_weights(data: st.DataObject) -> None:
    rows = data.draw(st.integers(2, 12))
    labels = np.array(
        [0.0, 1.0, *data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=rows - 2, max_size=rows - 2))]
    )
    scores = np.array(data.draw(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=rows, max_size=rows)))
    weight = np.array(data.draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=rows, max_size=rows)))
    auc = binary_metrics(labels, scores, weight).values["auc"]
    assert auc == pytest.approx(pairwise_auc(labels, scores, weight))


def test_worked_by_hand() -> None:
    metrics = binary_metrics(np.array([0.0, 1.0, 1.0, np.nan]), np.array([0.5, 0.5, 0.8, 0.1]))
    assert metrics.values["auc"] == 0.75  # one tie, one right
    assert metrics.values["logloss"] == pytest.approx(-(np.log(0.5) + np.log(0.5) + np.log(0.8)) / 3)
    assert (metrics.rows, metrics.positives) == (3, 2)


@pytest.mark.parametrize(
    ("labels", "probabilities", "reason"),
    [
        ([0.0, 0.0], [0.1, 0.2], "every one of the 2 labels is 0"),
        ([1.0, np.nan], [0.1, 0.2], "every one of the 1 labels is 1"),
        ([np.nan, np.nan], [0.1, 0.2], "no row has a label"),
        ([], [], "no row has a label"),
        ([0.0, 1.0], [0.1, np.nan], "1 of 2 predictions are not finite"),
    ],
)
def test_undefined_is_null_with_a_reason(labels: list[float], probabilities: list[float], reason: str) -> None:
    metrics = binary_metrics(np.array(labels), np.array(probabilities)).to_dict()
    assert metrics["auc"] is None
    assert metrics["reason"] == reason
    json.dumps(metrics, allow_nan=False)


def test_one_class_still_has_a_log_loss() -> None:
    assert binary_metrics(np.zeros(2), np.full(2, 0.5)).values["logloss"] == pytest.approx(np.log(2))


def test_rows_of_weight_zero_do_not_count() -> None:
    labels, p, weight = np.array([0.0, 1.0, 1.0]), np.array([0.3, 0.6, 0.1]), np.array([1.0, 1.0, 0.0])
    metrics = binary_metrics(labels, p, weight)
    assert (metrics.values["auc"], metrics.rows, metrics.positives) == (1.0, 2, 1)


def regression_metrics(labels: np.ndarray, values: np.ndarray) -> Metrics:
    return metrics_of(scores_of(Task("stay", "stay", kind="regression"), labels, values))


def test_regression_worked_by_hand() -> None:
    metrics = regression_metrics(np.array([1.0, 3.0, np.nan]), np.array([2.0, 3.0, 9.0]))
    assert metrics.values == {"mae": 0.5, "rmse": pytest.approx(0.5**0.5), "r2": 0.5}
    assert metrics.rows == 2


def test_regression_undefined() -> None:
    constant = regression_metrics(np.ones(2), np.zeros(2))
    assert constant.values["r2"] is None
    assert constant.values["mae"] == 1.0
    assert constant.reason == "every label is the same"
    assert regression_metrics(np.array([np.nan]), np.zeros(1)).reason == "no row has a label"


def test_table_has_a_row_per_task_and_nan_where_undefined() -> None:
    frame = table(
        {"a": binary_metrics(np.zeros(2), np.full(2, 0.5)), "b": binary_metrics(np.arange(2.0), np.arange(2) / 2)}
    )
    assert list(frame.index) == ["a", "b"]
    assert np.isnan(frame.auc["a"])
    assert frame.auc["b"] == 1.0
    assert "labels is 0" in frame.reason["a"]
