"""Metrics equal scikit-learn's, with ties, weights and missing labels."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import BINARY, drawn, repeated
from sklearn import metrics as sk

from recmtl.evaluate import Scores, binary_metrics, metrics_of, scores_of
from recmtl.schema import Task

LEVELS = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5000001, 0.9, 1.0])


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Labels with missing ones, predictions with ties, and weights with zeros or no weights."""
    size = draw(st.integers(3, 25))
    labels = [0.0, 1.0, *draw(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=size - 2, max_size=size - 2))]
    predictions = draw(st.lists(LEVELS, min_size=size, max_size=size))
    weight = draw(st.none() | st.lists(st.sampled_from([0.0, 0.3, 1.0, 2.5]), min_size=size - 2, max_size=size - 2))
    return np.array(labels), np.array(predictions), None if weight is None else np.array([0.7, 1.2, *weight])


@settings(max_examples=200, deadline=None)
@given(rows())
def test_binary(drawn_rows: tuple[np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    labels, p, weight = drawn_rows
    found = binary_metrics(labels, p, weight).values
    known = ~np.isnan(labels)
    y, p, w = labels[known], p[known], None if weight is None else weight[known]
    assert found["auc"] == pytest.approx(sk.roc_auc_score(y, p, sample_weight=w), abs=1e-12)
    assert found["pr_auc"] == pytest.approx(sk.average_precision_score(y, p, sample_weight=w), abs=1e-12)
    logloss = sk.log_loss(y, p, sample_weight=w, labels=[0, 1])
    assert found["logloss"] == pytest.approx(logloss, rel=1e-9)
    rate = np.average(y, weights=w)
    entropy = sk.log_loss(y, np.full(len(y), rate), sample_weight=w, labels=[0, 1])
    assert found["ne"] == pytest.approx(logloss / entropy, rel=1e-9)
    assert found["calibration"] == pytest.approx(np.average(p, weights=w) / rate)


@settings(max_examples=200, deadline=None)
@given(rows())
def test_regression(drawn_rows: tuple[np.ndarray, np.ndarray, np.ndarray | None]) -> None:
    labels, p, weight = drawn_rows
    task = Task("stay", "stay", kind="regression")
    found = metrics_of(scores_of(task, 3 * labels + 1, p, weight)).values
    known = ~np.isnan(labels)
    y, p, w = 3 * labels[known] + 1, p[known], None if weight is None else weight[known]
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, p, sample_weight=w))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, p, sample_weight=w))
    assert found["r2"] == pytest.approx(sk.r2_score(y, p, sample_weight=w), abs=1e-12)


def test_an_integer_weight_repeats_a_row() -> None:
    scores = drawn(200)
    times = np.random.default_rng(1).integers(1, 4, len(scores))
    weighed = metrics_of(Scores(BINARY, scores.labels, scores.predictions, times.astype(float)))
    assert weighed.values == pytest.approx(metrics_of(repeated(scores, times)).values, abs=1e-12)


def test_negative_zero_equals_zero() -> None:
    scores = Scores(BINARY, np.array([1.0, 0.0, 0.0]), np.array([-0.0, 0.0, 5e-324]))
    assert metrics_of(scores).values["auc"] == 0.25  # a tie and a wrong order


def test_the_order_of_tied_rows_does_not_matter() -> None:
    scores = drawn(500, levels=4, groups=30)
    turned = np.random.default_rng(1).permutation(len(scores))
    assert scores.groups is not None
    again = Scores(BINARY, scores.labels[turned], scores.predictions[turned], None, scores.groups[turned])
    assert metrics_of(again).values == pytest.approx(metrics_of(scores).values, abs=1e-12)


def test_predictions_outside_0_and_1_have_ranking_metrics_alone() -> None:
    scores = Scores(BINARY, np.array([0.0, 1.0, 1.0]), np.array([-1.0, 0.5, 3.0]))
    metrics = metrics_of(scores)
    assert (metrics.values["auc"], metrics.values["pr_auc"]) == (1.0, 1.0)
    assert [metrics.values[name] for name in ("logloss", "ne", "calibration", "ece")] == [None] * 4
    assert metrics.reason == "2 of 3 predictions are not in [0, 1]"


def test_entropy_and_calibration_worked_by_hand() -> None:
    metrics = binary_metrics(np.array([1.0, 0, 0, 0]), np.full(4, 0.25))
    assert metrics.values["ne"] == pytest.approx(1.0)  # the mean label itself
    assert metrics.values["calibration"] == 1.0
    assert metrics.values["ece"] == 0.0
    assert binary_metrics(np.array([1.0, 0, 0, 0]), np.full(4, 0.5)).values["calibration"] == 2.0


def test_metrics_that_need_both_classes_are_undefined_with_one() -> None:
    none = binary_metrics(np.zeros(2), np.full(2, 0.5))
    assert {name for name, value in none.values.items() if value is None} == {"auc", "pr_auc", "ne", "calibration"}
    every = binary_metrics(np.ones(2), np.full(2, 0.5))
    assert {name for name, value in every.values.items() if value is None} == {"auc", "pr_auc", "ne"}
    assert every.values["calibration"] == 0.5


def test_only_requested_metrics_are_computed() -> None:
    scores = drawn(50, groups=5)
    assert list(metrics_of(scores, names=["logloss", "r2", "auc"]).values) == ["auc", "logloss"]
    assert metrics_of(scores, names=["auc"]).groups is None
    assert list(metrics_of(scores, 3, ["recall@3", "recall@10"]).values) == ["recall@3"]


def test_no_warning_on_small_rows() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for labels in ([1.0], [0.0], [0.0, 1.0]):
            y = np.array(labels)
            metrics = metrics_of(Scores(BINARY, y, np.full(len(y), 0.5), groups=np.zeros(len(y), np.int64)))
            assert metrics.values["auc"] == (0.5 if len(y) == 2 else None)
            assert metrics.values["logloss"] == pytest.approx(np.log(2))
