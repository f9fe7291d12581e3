import numpy as np
import pyarrow as pa
import pytest

import recmtl
from recmtl.evaluate import measure, metric_names, monitors
from recmtl.train import EarlyStopping, RunConfig

SCHEMA = recmtl.Schema(
    [recmtl.Numeric("x")],
    [recmtl.Task("ctr", "click"), recmtl.Task("ctcvr", "conversion")],
    funnel=recmtl.Funnel("click", "conversion"),
    group="search",
)
LABELS = {"click": np.array([1.0, 0, 1, 1, 0]), "conversion": np.array([1.0, 0, 0, 1, 0])}
PREDICTIONS = {"ctr": np.array([0.6, 0.2, 0.3, 0.5, 0.4]), "ctcvr": np.array([0.3, 0.1, 0.2, 0.4, 0.1])}
KEYS = pa.table({"search": ["a", "a", "a", "b", "b"]})


def test_every_task_of_the_funnel_has_grouped_metrics() -> None:
    found = measure(SCHEMA, PREDICTIONS, LABELS, keys=KEYS)
    assert list(found) == ["ctr", "cvr", "ctcvr"]
    assert all(tuple(m.values) == metric_names("binary", grouped=True) for m in found.values())
    assert (found["cvr"].groups, found["cvr"].groups_left_out) == (2, 1)  # search b has one click alone
    assert found["cvr"].values["gauc"] == 0.0  # 0.3 / 0.6 is below 0.2 / 0.3
    assert measure(SCHEMA, PREDICTIONS, LABELS, keys=KEYS, k=1)["ctr"].values["recall@1"] == 0.75


def test_no_grouped_metrics_without_keys_or_request() -> None:
    assert tuple(measure(SCHEMA, PREDICTIONS, LABELS)["ctr"].values) == metric_names("binary", grouped=False)
    quick = measure(SCHEMA, PREDICTIONS, LABELS, keys=KEYS, names={"auc"})["ctr"]
    assert (quick.values, quick.groups) == ({"auc": pytest.approx(5 / 6)}, None)


def test_monitors() -> None:
    assert set(metric_names("binary", True)) - set(monitors("binary", True)) == {"calibration"}
    assert metric_names("binary", True, 5)[-2:] == ("ndcg@5", "recall@5")
    assert monitors("regression", True) == ("mae", "rmse", "r2")


def test_a_training_computes_all_metrics_at_its_end(aliexpress: recmtl.PreparedData) -> None:
    run = RunConfig(progress=False, device="cpu")
    model = recmtl.SharedBottom(aliexpress.schema, layers=[4])
    trainer = recmtl.Trainer(model, epochs=1, stopping=EarlyStopping(monitor="ctr.gauc"), run=run)
    trainer.fit(aliexpress.train, aliexpress.valid)
    measured = trainer.predictor.measure(aliexpress.valid)["ctr"]
    assert measured.values["gauc"] == trainer.result.best
    assert tuple(measured.values) == metric_names("binary", grouped=True)
    assert measured.groups is not None
    frame = trainer.evaluate(aliexpress.valid)
    assert {"gauc", "ndcg@10", "recall@10", "groups_left_out"} <= set(frame.columns)
