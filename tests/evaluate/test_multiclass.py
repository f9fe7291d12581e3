"""Multi-class tasks: metrics held to scikit-learn's, files of predictions, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn import metrics as sk

import recmtl
from recmtl.evaluate import intervals_of, metrics_of, scores_of

TASK = recmtl.Task("stars", "rating", kind="multiclass", classes=[1, 2, 4])
SCHEMA = recmtl.Schema([recmtl.Numeric("x")], [TASK])


def rows(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, probabilities with ties and weights."""
    rng = np.random.default_rng(seed)
    labels, logits = rng.integers(0, 3, size).astype(float), rng.integers(-2, 3, (size, 3)).astype(float)
    logits[np.arange(size), labels.astype(int)] += 1
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, probabilities, rng.uniform(0.1, 3, size)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_are_those_of_scikit_learn(seed: int, weighted: bool) -> None:
    labels, p, weight = rows(300, seed)
    w = weight if weighted else None
    found = metrics_of(scores_of(TASK, np.where(np.arange(300) % 7, labels, np.nan), p, w)).values
    known = np.arange(300) % 7 > 0
    y, p, w = labels[known], p[known], None if w is None else w[known]
    aucs = [sk.roc_auc_score(y == c, p[:, c], sample_weight=w) for c in range(3)]
    assert found["macro_auc"] == pytest.approx(np.mean(aucs), abs=1e-9)
    if not weighted:  # scikit-learn takes no weights for several classes
        whole = sk.roc_auc_score(y, p, multi_class="ovr", average="macro")
        assert found["macro_auc"] == pytest.approx(whole, abs=1e-9)
    assert found["logloss"] == pytest.approx(sk.log_loss(y, p, sample_weight=w), abs=1e-9)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(y, p.argmax(1), sample_weight=w), abs=1e-9)


def test_a_weight_counts_like_so_many_rows_also_in_calibration() -> None:
    labels, p, _ = rows(200)
    times = np.random.default_rng(1).integers(0, 4, 200)
    weighted = metrics_of(scores_of(TASK, labels, p, times.astype(float))).values
    repeated = metrics_of(scores_of(TASK, labels.repeat(times), p.repeat(times, 0))).values
    assert weighted == pytest.approx(repeated, abs=1e-12)


def test_two_classes_have_the_metrics_of_a_binary_task() -> None:
    labels, p, weight = rows(200)
    two, one = recmtl.Task("y", "y", kind="multiclass", classes=["no", "yes"]), recmtl.Task("y", "y")
    labels, p = (labels > 0).astype(float), np.round(p[:, 1] * 16) / 16  # so that 1 − p has the same ties
    found = metrics_of(scores_of(two, labels, np.column_stack([1 - p, p]), weight)).values
    expected = metrics_of(scores_of(one, labels, p, weight)).values
    assert found["macro_auc"] == pytest.approx(expected["auc"], abs=1e-12)
    assert found["logloss"] == pytest.approx(expected["logloss"], abs=1e-12)


def test_a_class_without_rows_is_left_out_and_one_class_alone_is_undefined() -> None:
    labels, p, _ = rows(100)
    few = labels < 2
    found = metrics_of(scores_of(TASK, labels[few], p[few])).values
    aucs = [sk.roc_auc_score(labels[few] == c, p[few, c]) for c in (0, 1)]
    assert found["macro_auc"] == pytest.approx(np.mean(aucs), abs=1e-12)
    one = metrics_of(scores_of(TASK, np.zeros(5), p[:5]))
    assert one.values["macro_auc"] is None
    assert one.reason == "every label is the same class"


def test_intervals_hold_the_estimates() -> None:
    labels, p, weight = rows(400)
    found = intervals_of(scores_of(TASK, labels, p, weight), draws=100)
    assert list(found) == ["macro_auc", "logloss", "accuracy", "ece"]
    assert all(i.low < i.estimate < i.high for name, i in found.items() if name != "ece")
    assert 0 <= found["ece"].low <= found["ece"].high  # of the true error, which chance makes larger in the estimate


def test_predictions_come_back_from_a_table_and_from_files(tmp_path: Path) -> None:
    labels, p, _ = rows(40)
    labels[3] = np.nan
    given = recmtl.Predictions(SCHEMA, {"stars": p}, {"rating": labels}, None, pa.table({}))
    table = given.table()
    assert table.column_names == ["label_rating", "stars_1", "stars_2", "stars_4"]
    assert table["label_rating"].to_pylist()[:4] == [*np.array([1, 2, 4])[labels[:3].astype(int)].tolist(), None]
    for suffix in ("parquet", "csv"):
        given.write(tmp_path / f"p.{suffix}")
        read = recmtl.Predictions.read(SCHEMA, tmp_path / f"p.{suffix}")
        read.check()
        assert metrics_of(read.scores()["stars"]).values == pytest.approx(metrics_of(given.scores()["stars"]).values)


def test_columns_name_the_classes_where_the_schema_does_not() -> None:
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("job", "job", kind="multiclass")])
    frame = pd.DataFrame({"job": ["b", "a", None], "job_b": [0.9, 0.4, 0.5], "job_a": [0.1, 0.6, 0.5]})
    read = recmtl.Predictions.from_table(schema, pa.Table.from_pandas(frame))
    assert metrics_of(read.scores()["job"]).values["accuracy"] == 1
    assert list(read.scores()["job"].task.classes) == ["a", "b"]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("stars_2", 1.5, r"column 'stars_2', row 1: expected a probability in \[0, 1\], got 1.5"),
        ("stars_2", 0.9, "sum of the columns 'stars_1' to 'stars_4', row 1: expected 1, got"),
        ("rating", 3, "row 1, column 'rating' has '3', which is no|3"),
    ],
)
def test_wrong_predictions_are_named(column: str, value: float, message: str) -> None:
    frame = pd.DataFrame({"rating": [1, 2], "stars_1": [0.2, 0.5], "stars_2": [0.3, 0.3], "stars_4": [0.5, 0.2]})
    frame.loc[0, column] = value
    with pytest.raises(recmtl.SchemaError, match=message):
        recmtl.Predictions.from_table(SCHEMA, pa.Table.from_pandas(frame)).check()
