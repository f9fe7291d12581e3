"""Calibrated funnels: each rate on its own rows, whichever of them a model predicts."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from scipy.special import expit, logit

from recmtl.calibration import METHODS, fit_calibration
from recmtl.evaluate import Predictions
from recmtl.schema import Funnel, Numeric, Schema, Task, consistent_rates

SCHEMA = Schema([Numeric("x")], [Task("ctr", "click"), Task("ctcvr", "buy")], funnel=Funnel("click", "buy"))


def planted(seed: int, count: int = 20_000) -> tuple[dict[str, npt.NDArray[np.float64]], Predictions]:
    """Two true rates, and predictions of joint rates that are off by themselves, so that some products are above 1."""
    rng = np.random.default_rng(seed)
    ctr, cvr = expit(rng.normal(size=count) - 1), expit(1.5 * rng.normal(size=count))
    click = (rng.random(count) < ctr).astype(float)
    labels = {"click": click, "buy": click * (rng.random(count) < cvr)}
    values = {"ctr": expit(logit(ctr) - 0.8), "ctcvr": expit(1.2 * logit(ctr * cvr) + 1.2)}
    return {"ctr": ctr, "cvr": cvr, "ctcvr": ctr * cvr}, Predictions(SCHEMA, values, labels, None, pa.table({}))


@pytest.mark.parametrize("method", METHODS)
def test_rates_that_were_lowered_to_1_leave_the_others_as_good_as_they_were(method: str) -> None:
    """A function of log-odds that is fitted on such rows as well is nearly flat: it loses what the model knows."""
    found = []
    for seed in (0, 1):
        truth, predictions = planted(seed)
        noise = np.random.default_rng(seed + 2).normal(size=len(truth["ctr"]))
        values = {"ctr": truth["ctr"], "ctcvr": np.minimum(0.999, truth["ctcvr"] * np.exp(0.2 * noise))}
        found.append((truth, Predictions(SCHEMA, values, predictions.labels, None, pa.table({}))))
    (_, train), (truth, test) = found
    after = fit_calibration(train, method).applied(test)
    clicked = test.labels["click"] == 1
    raw, values = (p.scores()["cvr"].predictions for p in (test, after))
    assert (raw == 1).mean() == pytest.approx(0.06, abs=0.01)
    assert np.abs(values - truth["cvr"][clicked]).mean() < np.abs(raw - truth["cvr"][clicked]).mean()
    assert after.metrics()["cvr"].values["logloss"] < 0.57 < test.metrics()["cvr"].values["logloss"]
    assert values.mean() == pytest.approx(test.labels["buy"][clicked].mean(), rel=0.02)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_derived_rate_is_calibrated_on_its_own_rows(method: str) -> None:
    """Its function is that of a model that predicts it; each rate is nearer to the truth, and none is capped."""
    train = planted(0)[1]
    calibration = fit_calibration(train, method)
    truth, predictions = planted(1)
    after = calibration.applied(predictions)
    before, found = predictions.metrics(), after.metrics()
    values, raw = ({name: s.predictions for name, s in p.scores().items()} for p in (after, predictions))
    assert list(calibration.calibrators) == ["ctr", "cvr"]
    for task in truth:
        assert found[task].values["logloss"] < before[task].values["logloss"]
    clicked = predictions.labels["click"] == 1
    error = [np.abs(v["cvr"] - truth["cvr"][clicked]).mean() for v in (raw, values)]
    assert error[1] < error[0] / 2
    assert before["cvr"].capped
    assert not found["cvr"].capped
    rows, derived = train.labels["click"] == 1, consistent_rates(SCHEMA, train.values, np)[0]["cvr"]
    twin = METHODS[method].fit(derived[rows], train.labels["buy"][rows], np.ones(rows.sum()))
    assert calibration.calibrators["cvr"] == twin
    in_graph = calibration(SCHEMA, {name: torch.from_numpy(v) for name, v in predictions.values.items()})
    for name, expected in after.values.items():
        np.testing.assert_array_equal(in_graph[name].numpy(), expected)
    before_again = after.before_calibration().scores()
    for name, expected in raw.items():
        np.testing.assert_allclose(before_again[name].predictions, expected, rtol=0, atol=1e-12)
