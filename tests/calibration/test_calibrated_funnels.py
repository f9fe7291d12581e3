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
