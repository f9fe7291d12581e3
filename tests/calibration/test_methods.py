"""Each method against a naive twin, and on predictions whose fault is planted."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.optimize import minimize
from sklearn.calibration import _SigmoidCalibration
from sklearn.isotonic import IsotonicRegression

from recmtl.calibration import METHODS, Isotonic, Platt, Temperature
from recmtl.calibration.log_odds import log_odds
from recmtl.evaluate import binary_metrics, calibration_error, scores_of
from recmtl.schema import Task

Floats = npt.NDArray[np.float64]
TASK = Task("ctr", "click")


def sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def rows(seed: int, count: int = 20_000) -> tuple[Floats, Floats, Floats]:
    """True probabilities, labels drawn by them, and weights that do not depend on them."""
    rng = np.random.default_rng(seed)
    p = sigmoid(1.2 * rng.normal(size=count) - 1.5)
    return p, (rng.random(count) < p).astype(float), rng.uniform(0.5, 2, count)


def applied(calibrator: Callable[[torch.Tensor], torch.Tensor], p: Floats) -> Floats:
    return calibrator(torch.from_numpy(p)).numpy()


FAULTS: dict[str, Callable[[Floats], Floats]] = {
    "power": lambda p: p**2,
    "shift": lambda p: sigmoid(log_odds(p) + 1.5),
    "sureness": lambda p: sigmoid(2 * log_odds(p)),
    "bend": lambda p: sigmoid(log_odds(p) + 2.5 * np.maximum(0, log_odds(p) + 1.5)),  # no line on the log-odds
}
MENDS = {"isotonic": tuple(FAULTS), "platt": ("power", "shift", "sureness"), "temperature": ("sureness",)}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("method", METHODS)
def test_a_planted_fault_is_mended_where_the_method_can(method: str, fault: str) -> None:
    """On other rows than it was fitted on; AUC stays, and the interval of the error leaves the fault behind."""
    p, labels, weight = rows(0)
    calibrator = METHODS[method].fit(FAULTS[fault](p), labels, weight)
    p, labels, weight = rows(1)
    given = FAULTS[fault](p)
    found = applied(calibrator, given)
    before, after = (calibration_error(scores_of(TASK, labels, values, weight)) for values in (given, found))
    assert before.low > 0.02
    mended = fault in MENDS[method]
    assert (after.low == 0.0 and after.high < before.low) == mended
    assert (np.abs(found - p).mean() < 0.015) == mended
    auc = [binary_metrics(labels, values, weight).values["auc"] for values in (given, found)]
    assert auc[1] == pytest.approx(auc[0], abs=1e-4 if method == "isotonic" else 1e-12)


def test_isotonic_pools_adjacent_violators() -> None:
    """Worked by hand: 0.2 and 0.3 are pooled to 2/3 at 0.2667, and the ends get one more row of the mean label 5/8."""
    p, labels = np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.0, 1.0, 0.5, 1.0])
    found = Isotonic.fit(p, labels, np.array([1.0, 1.0, 2.0, 1.0]))
    weight = np.array([1, 1, 2, 1]) / 1.25
    mean = weight @ labels / 4
    low, high = mean / (0.8 + 1), (0.8 + mean) / (0.8 + 1)
    np.testing.assert_allclose(found.x, [0, 0.1, 0.8 / 3, 0.9, 1])
    np.testing.assert_allclose(found.y, [0, min(low, 2 / 3), 2 / 3, max(high, 2 / 3), 1])
    assert applied(found, np.array([0.8 / 3]))[0] == pytest.approx(2 / 3)


def naive_blocks(p: Floats, labels: Floats, weight: Floats) -> list[tuple[float, float, float]]:
    """Pool adjacent violators as in the textbook: weight, mean prediction and mean label of each block."""
    blocks: list[list[float]] = []
    for i in np.argsort(p, kind="stable"):
        blocks.append([weight[i], p[i], labels[i]])
        while len(blocks) > 1 and blocks[-2][2] >= blocks[-1][2]:
            (w, x, y), (v, u, z) = blocks[-2], blocks.pop()
            blocks[-1] = [w + v, (w * x + v * u) / (w + v), (w * y + v * z) / (w + v)]
    return [tuple(block) for block in blocks]


def test_isotonic_equals_a_naive_twin() -> None:
    p, labels, weight = rows(2, 400)
    found, blocks = Isotonic.fit(p, labels, weight), naive_blocks(p, labels, weight / weight.mean())
    np.testing.assert_allclose(found.x[1:-1], [x for _, x, _ in blocks], rtol=1e-9)
    inner = np.array([y for _, _, y in blocks])
    np.testing.assert_allclose(found.y[2:-2], inner[1:-1], rtol=1e-9)
    library = IsotonicRegression().fit(p, labels, weight).predict(p)
    values = np.interp(p, found.x, found.y)
    np.testing.assert_allclose(applied(found, p), values, rtol=1e-12, atol=1e-15)
    assert np.abs(values - library).mean() < 0.05
    assert len(np.unique(values)) == len(np.unique(p))  # no ties
    edges = np.array([0.0, 1.0, *found.x])
    np.testing.assert_allclose(applied(found, edges), np.interp(edges, found.x, found.y), rtol=1e-12)


def test_isotonic_of_a_constant_and_of_close_predictions() -> None:
    labels = np.array([0.0, 1.0] * 50)
    one = Isotonic.fit(np.full(100, 0.3), labels, np.ones(100))
    assert applied(one, np.array([0.3]))[0] == pytest.approx(0.5)
    close = Isotonic.fit(0.3 + 1e-12 * np.arange(100), np.sort(labels), np.ones(100))
    assert (np.diff(close.x) > 1e-10).all()


def test_platt_equals_that_of_scikit_learn() -> None:
    p, labels, _ = rows(3, 3000)
    found = Platt.fit(sigmoid(1.7 * log_odds(p) - 1), labels, np.ones(3000))
    library = _SigmoidCalibration().fit(1.7 * log_odds(p) - 1, labels)
    assert (found.slope, found.intercept) == pytest.approx((-library.a_, -library.b_), rel=1e-3)
    twice = np.where(labels == 1, 2, 1)
    weighted = Platt.fit(p, labels, twice.astype(float))
    repeated = Platt.fit(np.repeat(p, twice), np.repeat(labels, twice), np.ones(twice.sum()))
    assert weighted.slope == pytest.approx(repeated.slope, rel=2e-3)


@pytest.mark.parametrize("classes", [2, 4])
def test_temperature_has_the_lowest_loss(classes: int) -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(2000, classes)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(classes, p=row) for row in p])
    sure = p**2.5 / (p**2.5).sum(1, keepdims=True)
    given = sure[:, 1] if classes == 2 else sure
    found, weight = Temperature.fit(given, labels.astype(float), np.ones(2000)), np.arange(2000)

    def loss(temperature: Floats) -> float:
        scaled = np.log(sure) / temperature[0]
        return float((np.log(np.exp(scaled).sum(1)) - scaled[weight, labels]).sum())

    assert found.temperature == pytest.approx(minimize(loss, [1.0], method="Nelder-Mead", tol=1e-8).x[0], rel=1e-4)
    assert found.temperature == pytest.approx(2.5, rel=0.1)
    expected = sure ** (1 / found.temperature)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(applied(found, given), expected[:, 1] if classes == 2 else expected, rtol=1e-9)


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_an_order_that_would_be_reversed_is_refused(method: str) -> None:
    p, labels, weight = rows(5, 2000)
    with pytest.raises(ValueError, match="fall where labels rise"):
        METHODS[method].fit(1 - p, labels, weight)


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_predictions_of_1_get_their_mean_label_joined_with_those_above_it(method: str) -> None:
    p, labels, weight = rows(5, 2000)
    certain, of_certain = np.ones(50), (np.arange(50) % 5 > 0).astype(float)
    found = METHODS[method].fit(np.append(p, certain), np.append(labels, of_certain), np.append(weight, certain))
    alone = METHODS[method].fit(p, labels, weight)
    line, highest = applied(alone, p), found.to_dict()["highest"]
    np.testing.assert_array_equal(applied(found, p), np.minimum(line, highest))
    above = line >= highest
    of_these = np.append(labels[above], of_certain)
    assert highest == pytest.approx(np.average(of_these, weights=np.append(weight[above], certain)), abs=0.02)
    assert applied(found, certain).tolist() == [highest] * 50
    assert alone.to_dict()["highest"] == 1


def test_classes_that_cannot_be_calibrated_are_not_advised_a_method_of_binary_tasks() -> None:
    with pytest.raises(ValueError, match=r"no surer of the classes of the labels than of the others$"):
        METHODS["temperature"].fit(np.full((100, 4), 0.25), np.arange(100) % 4, np.ones(100))


@pytest.mark.parametrize("method", METHODS)
def test_certain_predictions_and_separated_labels_stay_finite(method: str) -> None:
    p = np.repeat([0.0, 1e-300, 0.2, 0.9, 1.0], 100)
    found = METHODS[method].fit(p, (p > 0.5).astype(float), np.ones(500))
    values = applied(found, np.unique(p))
    assert np.isfinite(values).all()
    assert (np.diff(values) >= 0).all()
    assert METHODS[method](**found.to_dict()) == found


@pytest.mark.parametrize(
    ("method", "content"),
    [
        ("isotonic", {"x": [0.0, 0.0], "y": [0.1, 0.2]}),
        ("isotonic", {"x": [0.0, 1.0], "y": [0.2, 0.1]}),
        ("isotonic", {"x": [0.0, 1.0], "y": [0.2, float("nan")]}),
        ("platt", {"slope": -1.0, "intercept": 0.0}),
        ("platt", {"slope": 1.0, "intercept": 0.0, "highest": 0.0}),
        ("temperature", {"temperature": 0.0}),
    ],
)
def test_numbers_of_a_file_are_checked(method: str, content: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        METHODS[method](**content)
