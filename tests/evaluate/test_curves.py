"""Points of ROC and precision-recall curves."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from recmtl.evaluate import Scores
from recmtl.evaluate.curves import precision_recall_points, roc_points
from recmtl.evaluate.history import diagnosis_curves, loss_curves, metric_curves, weight_curves
from recmtl.schema import Task

TASK = Task("ctr", "click")


def scores(rows: int, weighted: bool = False, seed: int = 0) -> Scores:
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.1).astype(float)
    weight = rng.uniform(0.5, 2, rows) if weighted else None
    return Scores(TASK, labels, 1 / (1 + np.exp(2 - rng.normal(size=rows) - labels)), weight)


def test_roc_worked_by_hand() -> None:
    """Two positives at 0.9 and 0.5, two negatives at 0.5 and 0.1: the tie is one slanted step."""
    points = roc_points(Scores(TASK, np.array([1.0, 1, 0, 0]), np.array([0.9, 0.5, 0.5, 0.1])))
    assert points.to_numpy().tolist() == [[0, 0], [0, 0.5], [0.5, 1], [1, 1]]


def test_precision_recall_worked_by_hand() -> None:
    points = precision_recall_points(Scores(TASK, np.array([1.0, 1, 0, 0]), np.array([0.9, 0.5, 0.5, 0.1])))
    assert points.to_numpy().tolist() == [[0.5, 1], [1, pytest.approx(2 / 3)], [1, 0.5]]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("most", [100, 500])
def test_a_thinned_roc_stays_close_to_the_full_curve(weighted: bool, most: int) -> None:
    given = scores(100_000, weighted)
    points = roc_points(given, most)
    x, y, _ = roc_curve(given.labels, given.predictions, sample_weight=given.weight)
    assert len(points) <= most < len(x)
    near = np.abs(np.interp(x + y, points.sum(axis=1), points["false_positive_rate"]) - x)
    assert near.max() < 4 / most
    area = np.trapezoid(points["true_positive_rate"], points["false_positive_rate"])
    exact = roc_auc_score(given.labels, given.predictions, sample_weight=given.weight)
    assert area == pytest.approx(exact, abs=1e-3 if most == 100 else 1e-4)


def test_a_thinned_precision_keeps_the_extremes_of_each_range_of_recall() -> None:
    given = scores(100_000)
    points = precision_recall_points(given, 400)
    precision, recall, _ = precision_recall_curve(given.labels, given.predictions)
    whole = pd.DataFrame({"recall": recall[:-1], "precision": precision[:-1]})
    assert len(points) <= 400 < len(whole)
    assert points["recall"].is_monotonic_increasing
    for frame in (points, whole):
        frame["range"] = np.minimum((frame["recall"] * 100).astype(int), 99)
    kept, all_of = (frame.groupby("range")["precision"].agg(["min", "max"]) for frame in (points, whole))
    # A range also keeps its ends; so its extremes are those of the whole.
    pd.testing.assert_frame_equal(kept, all_of)
    assert points.merge(whole, on=["recall", "precision"]).shape[0] >= len(points)


def test_curves_from_the_log() -> None:
    records = [
        {"step": 1, "loss": {"a": 0.5, "b": None}, "weight": {}},
        {"step": 2, "diagnosis": {"weight": {"a": 2.0}, "cosine": {"a·b": 0.1}}},
        {"step": 2, "loss": {"a": 0.4, "b": 0.3}, "weight": {"a": 3.0}},
        {"step": 2, "valid": {"a": {"auc": 0.7, "rows": 3}, "b": {"auc": None}, "c": {"mae": 1.5}}},
    ]
    assert loss_curves(records) == {"a": ([1, 2], [0.5, 0.4]), "b": ([2], [0.3])}
    assert metric_curves(records) == {"a auc": ([2], [0.7]), "c mae": ([2], [1.5])}
    assert diagnosis_curves(records, "cosine") == {"a·b": ([2], [0.1])}
    assert weight_curves(records) == {"a": ([2], [3.0])}
