"""Amounts: metrics held to scikit-learn's and to naive ones, and what is refused."""

import itertools

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn import metrics as sk

import recmtl
from recmtl.evaluate import intervals_of, metrics_of, scores_of

TASK = recmtl.Task("watch", "seconds", kind="amount")


def rows(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels with zeros, predictions with ties, and weights."""
    rng = np.random.default_rng(seed)
    labels = rng.poisson(1.0, size) * rng.exponential(size=size)
    return labels, rng.integers(1, 9, size) / 4, rng.uniform(0.1, 3, size)


@pytest.mark.parametrize("seed", range(3))
def test_metrics_are_those_of_scikit_learn(seed: int) -> None:
    labels, p, w = rows(300, seed)
    found = metrics_of(scores_of(TASK, np.where(np.arange(300) % 7, labels, np.nan), p, w)).values
    known = np.arange(300) % 7 > 0
    y, p, w = labels[known], p[known], w[known]
    assert found["poisson_deviance"] == pytest.approx(sk.mean_poisson_deviance(y, p, sample_weight=w), abs=1e-9)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(y, p, sample_weight=w), abs=1e-9)
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(y, p, sample_weight=w), abs=1e-9)
    assert found["calibration"] == pytest.approx(w @ p / (w @ y), abs=1e-9)


def naive_gini(y: np.ndarray, p: np.ndarray, w: np.ndarray) -> float:
    """Σ over pairs of rows of w·w·y, by whether the other row is below."""

    def area(key: np.ndarray) -> float:
        pairs = itertools.product(range(len(y)), repeat=2)
        won = sum(w[i] * y[i] * w[j] * (0.5 * (key[j] <= key[i]) + 0.5 * (key[j] < key[i])) for i, j in pairs)
        return 2 * won / ((w @ y) * w.sum()) - 1

    return area(p) / area(y)


def test_gini_is_that_of_all_pairs_and_of_the_auc() -> None:
    y, p, w = rows(40)
    assert metrics_of(scores_of(TASK, y, p, w)).values["gini"] == pytest.approx(naive_gini(y, p, w), abs=1e-12)
    assert metrics_of(scores_of(TASK, y, 3 * y, w)).values["gini"] == pytest.approx(1)
    assert metrics_of(scores_of(TASK, y, -y + 9, w)).values["gini"] < 0
    assert metrics_of(scores_of(TASK, y, 0 * y + 1, w)).values["gini"] == pytest.approx(0)
    binary = (y > 1).astype(float)
    auc = sk.roc_auc_score(binary, p, sample_weight=w)
    assert metrics_of(scores_of(TASK, binary, p, w)).values["gini"] == pytest.approx(2 * auc - 1, abs=1e-12)


def test_a_weight_counts_like_so_many_rows() -> None:
    y, p, _ = rows(200)
    times = np.random.default_rng(1).integers(0, 4, 200)
    weighted = metrics_of(scores_of(TASK, y, p, times.astype(float))).values
    assert weighted == pytest.approx(metrics_of(scores_of(TASK, y.repeat(times), p.repeat(times))).values, abs=1e-12)


def test_what_is_undefined_says_why() -> None:
    same = metrics_of(scores_of(TASK, np.full(5, 2.0), np.arange(5) + 1.0))
    assert (same.values["gini"], same.reason) == (None, "every label is the same")
    none = metrics_of(scores_of(TASK, np.zeros(5), np.arange(5) + 1.0))
    assert (none.values["gini"], none.values["calibration"], none.reason) == (None, None, "every label is 0")
    negative = metrics_of(scores_of(TASK, np.arange(5.0), np.arange(5) - 1.0))
    assert negative.values["poisson_deviance"] is None
    assert negative.reason == "1 of 5 predictions are not numbers of at least 0"
    assert negative.values["mae"] == 1


def test_intervals_hold_the_estimates() -> None:
    found = intervals_of(scores_of(TASK, *rows(400)), draws=100)
    assert list(found) == ["gini", "poisson_deviance", "rmse", "mae", "calibration"]
    assert all(i.low < i.estimate < i.high for i in found.values())


@pytest.mark.parametrize(("column", "message"), [("seconds", "label 'seconds'"), ("watch", "column 'watch'")])
def test_negative_amounts_are_named(column: str, message: str) -> None:
    schema = recmtl.Schema([recmtl.Numeric("x")], [TASK])
    frame = pd.DataFrame({"seconds": [1.0, 2.0], "watch": [0.5, 0.5]})
    frame.loc[1, column] = -1
    with pytest.raises(recmtl.SchemaError, match=f"{message}, row 2: expected a number of at least 0"):
        recmtl.Predictions.from_table(schema, pa.Table.from_pandas(frame)).check()
    if column == "seconds":
        with pytest.raises(recmtl.DataError, match="the label of an amount: expected a number of at least 0"):
            recmtl.prepare(schema, frame.assign(x=1.0), holdout=0)
