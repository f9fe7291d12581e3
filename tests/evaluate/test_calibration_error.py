"""The interval of the expected calibration error, and tables of calibration."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest

import recmtl
from recmtl.evaluate import (
    Predictions,
    calibration_by_slice,
    calibration_error,
    calibration_over_time,
    calibration_table,
    intervals_of,
    metrics_of,
    scores_of,
)
from recmtl.evaluate.calibration_error import gap_moments
from recmtl.evaluate.calibration_tables import calibration_interval
from recmtl.evaluate.slices import FeatureValues

Floats = npt.NDArray[np.float64]
TASK = recmtl.Task("ctr", "click")
SCHEMA = recmtl.Schema(features=[recmtl.Numeric("x")], tasks=[TASK], keys=["day"])


def sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def predicted(rng: np.random.Generator, rows: int) -> Floats:
    return sigmoid(rng.normal(size=rows) - 1)


TRUTHS: dict[str, Callable[[Floats], Floats]] = {
    "right": lambda p: p,
    "all too low": lambda p: sigmoid(np.log(p / (1 - p)) + 0.5),
    "too sure": lambda p: sigmoid(0.7 * np.log(p / (1 - p)) - 0.3),
    "the highest too high": lambda p: np.where(p > 0.55, 0.7 * p, p),
}


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_interval_holds_the_true_error(truth: str) -> None:
    """Of 80 intervals at least 71 do, but for one time in 40 if each does with a probability of 95 %."""
    many = predicted(np.random.default_rng(0), 400_000)
    chunks = np.array_split(np.sort(many), 15)
    true = np.mean([abs(chunk.mean() - TRUTHS[truth](chunk).mean()) for chunk in chunks])
    held, noise = 0, []
    for draw in range(80):
        rng = np.random.default_rng([draw, 1])
        p = predicted(rng, 2000)
        labels = (rng.random(len(p)) < TRUTHS[truth](p)).astype(float)
        found = calibration_error(scores_of(TASK, labels, p))
        held += found.low <= true <= found.high
        noise.append(found.ece - found.noise)
    assert held >= 71
    if truth == "right":
        assert abs(np.mean(noise)) < 0.001  # what right predictions show on average is noise
        assert found.noise > 0.02  # which the metric takes for error


def test_that_of_classes_is_that_of_the_most_probable_one() -> None:
    """An interval that holds the metric's true error, and the same table as of the binary task "it is that class"."""
    rng = np.random.default_rng(0)
    task = recmtl.Task("stars", "stars", kind="multiclass", classes=[1, 2, 3])
    p = rng.dirichlet([1, 2, 3], 3000)
    labels = (rng.random(3000)[:, None] > p.cumsum(1)).sum(1).astype(float)
    right, sure = scores_of(task, labels, p), scores_of(task, labels, p**3 / (p**3).sum(1, keepdims=True))
    for scores in (right, sure):
        top, values = scores.predictions.argmax(1), metrics_of(scores).values
        binary = scores_of(TASK, (labels == top).astype(float), scores.predictions.max(1))
        assert calibration_error(scores) == calibration_error(binary)
        assert intervals_of(scores, ["ece"], draws=0)["ece"].estimate == pytest.approx(values["ece"], abs=1e-12)
    assert calibration_error(right).low < 0.005 < 0.1 < calibration_error(sure).low
    schema = recmtl.Schema(features=[recmtl.Numeric("x")], tasks=[task])
    given = Predictions(
        schema, {"stars": right.predictions}, {"stars": labels}, None, pa.table({"day": np.zeros(3000)})
    )
    (row,) = calibration_table(given).to_dict("records")
    assert (row["predicted"], row["observed"]) == pytest.approx((p.max(1).mean(), (labels == p.argmax(1)).mean()))
    assert row["logloss"] == pytest.approx(metrics_of(right).values["logloss"])
    assert not len(calibration_by_slice(given, FeatureValues.of_text(pa.chunked_array([["a"] * 3000]), "x"), 3))


def test_the_error_is_the_metric_and_the_covariance_a_naive_one() -> None:
    rng = np.random.default_rng(0)
    p, groups = predicted(rng, 900), rng.integers(0, 60, 900)
    labels, weight = (rng.random(900) < p).astype(float), rng.uniform(0.5, 2, 900)
    scores = scores_of(TASK, labels, p, weight, groups)
    assert calibration_error(scores).ece == pytest.approx(metrics_of(scores).values["ece"], abs=1e-12)
    weights, gaps, covariance = gap_moments(scores, bins=5)
    order = np.argsort(p)
    codes = np.empty(900, int)
    codes[order] = ((np.cumsum(weight[order]) - weight[order] / 2) * 5 / weight.sum()).astype(int)
    naive = np.zeros((5, 5))
    for group in np.unique(groups):
        part = [
            sum(weight[i] * (p[i] - labels[i] - gaps[b]) for i in np.flatnonzero((groups == group) & (codes == b)))
            / weight[codes == b].sum()
            for b in range(5)
        ]
        naive += np.outer(part, part)
    np.testing.assert_allclose(covariance - np.diag(np.diag(covariance)), naive - np.diag(np.diag(naive)), atol=1e-15)
    assert (np.diag(covariance) >= np.diag(naive) - 1e-15).all()
    np.testing.assert_allclose(weights, np.bincount(codes, weight) / weight.sum())


def test_clusters_of_equal_rows_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    p = predicted(rng, 2000)
    labels = (rng.random(2000) < TRUTHS["all too low"](p)).astype(float)
    groups = np.tile(np.arange(2000), 4)
    alone = calibration_error(scores_of(TASK, labels, p))
    repeated = calibration_error(scores_of(TASK, np.tile(labels, 4), np.tile(p, 4), groups=groups))
    taken = calibration_error(scores_of(TASK, np.tile(labels, 4), np.tile(p, 4)))
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert taken.high - taken.low < 0.7 * (repeated.high - repeated.low)
    assert calibration_error(scores_of(TASK, labels[:0], p[:0])) is None
    with pytest.raises(ValueError, match="level"):
        calibration_error(scores_of(TASK, labels, p), level=2)


def test_certain_predictions_and_one_class_have_an_interval() -> None:
    labels = np.array([0.0, 1.0] * 20)
    right = calibration_error(scores_of(TASK, labels, labels))
    assert (right.ece, right.noise, right.low, right.high) == (0, 0, 0, 0)
    wrong = calibration_error(scores_of(TASK, labels, 1 - labels))
    assert (wrong.low, wrong.ece, wrong.high) == pytest.approx((1, 1, 1), abs=1e-5)
    negative = calibration_error(scores_of(TASK, np.zeros(40), np.full(40, 0.1)))
    assert 0 <= negative.low < 0.1 < negative.high
    assert "ece" in intervals_of(scores_of(TASK, labels, np.linspace(0.1, 0.9, 40)), draws=0)


def test_the_interval_of_the_ratio_of_means_holds_it() -> None:
    held = 0
    for draw in range(300):
        rng = np.random.default_rng(draw)
        user = np.repeat(rng.normal(size=100), 5)
        p = sigmoid(user - 1)
        labels = (rng.random(500) < 0.8 * p).astype(float)
        _, low, high = calibration_interval(scores_of(TASK, labels, p, groups=np.repeat(np.arange(100), 5)))
        held += low <= 1.25 <= high
    assert 0.92 <= held / 300 <= 0.985


def predictions(days: pa.Array, shift: Floats) -> Predictions:
    rng = np.random.default_rng(3)
    p = predicted(rng, len(shift))
    labels = (rng.random(len(p)) < np.clip(p * shift, 0, 1)).astype(float)
    return Predictions(SCHEMA, {"ctr": p}, {"click": labels}, None, pa.table({"day": days}))


def test_a_day_that_drifts_is_seen() -> None:
    days = np.repeat(pd.date_range("2024-01-01", periods=4).to_numpy(), 2000)
    shift = np.where(np.arange(8000) >= 6000, 0.6, 1.0)
    found = calibration_over_time(predictions(pa.array(days), shift), "day")
    assert list(found["period"]) == ["2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04"]
    assert ((found["low"] <= 1) & (found["high"] >= 1)).tolist() == [True, True, True, False]
    assert found["low"].iloc[3] < 1 / 0.6 < found["high"].iloc[3]
    in_seconds = pa.array(days.astype("datetime64[s]").astype(np.int64))
    pd.testing.assert_frame_equal(calibration_over_time(predictions(in_seconds, shift), "day"), found)
    as_text = pa.array([str(day)[:10] for day in days])
    pd.testing.assert_frame_equal(calibration_over_time(predictions(as_text, shift), "day"), found)


def test_many_periods_are_joined_and_hours_shown() -> None:
    numbers = calibration_over_time(predictions(pa.array(np.arange(200) % 100), np.ones(200)), "day")
    assert len(numbers) == 31
    hours = pd.date_range("2024-01-01", periods=4, freq="h").repeat(50)
    found = calibration_over_time(predictions(pa.array(hours), np.ones(200)), "day")
    assert list(found["period"])[:2] == ["2024-01-01 00:00", "2024-01-01 01:00"]
    words = calibration_over_time(predictions(pa.array(["b", "a"] * 100), np.ones(200)), "day")
    assert list(words["period"]) == ["a", "b"]
    with pytest.raises(recmtl.SchemaError, match="expected one of 'day', got 'time'"):
        calibration_over_time(predictions(pa.array(hours), np.ones(200)), "time")


def test_the_slice_furthest_from_right_comes_first() -> None:
    slices = np.arange(6000) % 3
    given = predictions(pa.array(slices), np.choose(slices, [1.0, 0.7, 1.0]))
    found = calibration_by_slice(given, FeatureValues.of(["x", "y", "z"], slices))
    assert found["value"].iloc[0] == "y"
    assert found["low"].iloc[0] < 1 / 0.7 < found["high"].iloc[0]
    assert found["rows"].tolist() == [2000] * 3


def test_slices_with_few_positives_come_last_however_far_from_right() -> None:
    slices = np.arange(6000) % 3
    slices[:40] = 3
    given = predictions(pa.array(slices), np.choose(slices, [1.0, 0.7, 1.0, 0.3]))
    found = calibration_by_slice(given, FeatureValues.of(["x", "y", "z", "rare"], slices))
    assert found["value"].tolist()[::3] == ["y", "rare"]
    assert 1 < found["positives"].iloc[3] < 10
    assert found["calibration"].iloc[3] > found["calibration"].iloc[0]


def test_the_table_shows_both_stages() -> None:
    given = predictions(pa.array(np.zeros(3000, int)), np.full(3000, 0.5))
    assert calibration_table(given)["stage"].tolist() == ["uncalibrated"]
    halved = Predictions(SCHEMA, {"ctr": given.values["ctr"] / 2}, given.labels, None, given.keys)
    both = Predictions(SCHEMA, halved.values, given.labels, None, given.keys, uncalibrated={"ctr": given.values["ctr"]})
    found = calibration_table(both).set_index("stage")
    assert found["low"]["uncalibrated"] > found["high"]["calibrated"]
    assert found["observed"].nunique() == 1
    assert found["predicted"]["calibrated"] == found["predicted"]["uncalibrated"] / 2
