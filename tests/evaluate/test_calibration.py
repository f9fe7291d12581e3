import numpy as np
import pytest
from naive import BINARY, drawn
from sklearn.calibration import calibration_curve

from recmtl.evaluate import Scores, metrics_of, reliability_bins


def test_bins_without_ties_equal_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(600)
    scores = Scores(BINARY, (rng.random(600) < p).astype(float), p)
    curve = reliability_bins(scores, bins=6)
    observed, predicted = calibration_curve(scores.labels, p, n_bins=6, strategy="quantile")
    assert curve.rows.tolist() == [100] * 6
    assert curve.observed.to_numpy() == pytest.approx(observed)
    assert curve.predicted.to_numpy() == pytest.approx(predicted)
    assert (curve.low.to_numpy()[1:] > curve.high.to_numpy()[:-1]).all()


def test_equal_predictions_share_a_bin() -> None:
    predictions = np.repeat([0.1, 0.2, 0.9], [2, 6, 2])
    curve = reliability_bins(Scores(BINARY, np.array([0.0, 1] * 5), predictions), bins=5)
    assert curve.index.tolist() == [0, 2, 4]
    assert curve.rows.tolist() == [2, 6, 2]
    assert curve.predicted.tolist() == pytest.approx([0.1, 0.2, 0.9])
    assert curve.observed.tolist() == [0.5] * 3


@pytest.mark.parametrize("weighted", [False, True])
def test_ece_is_the_mean_gap_of_the_curve(weighted: bool) -> None:
    scores = drawn(400, levels=150, weighted=weighted)
    curve = reliability_bins(scores)
    gap = (curve.predicted - curve.observed).abs()
    assert metrics_of(scores).values["ece"] == pytest.approx(np.average(gap, weights=curve.weight))
    assert curve.rows.sum() == 400
    assert len(curve) == 15


def test_no_rows_give_no_bins() -> None:
    assert reliability_bins(Scores(BINARY, np.zeros(0), np.zeros(0))).empty


def test_predictions_outside_0_and_1_are_errors() -> None:
    with pytest.raises(ValueError, match=r"predictions must be probabilities in \[0, 1\], got 1.5"):
        reliability_bins(Scores(BINARY, np.zeros(2), np.array([0.5, 1.5])))
    with pytest.raises(ValueError, match="`bins` must be at least 1, got 0"):
        reliability_bins(drawn(5), 0)
