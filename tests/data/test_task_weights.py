"""A column of weights of one task: from raw rows to losses, metrics and files of predictions."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import recmtl
from recmtl.data import Loader
from recmtl.evaluate import Predictions, metrics_of
from recmtl.models import Losses
from recmtl.schema import load_fitted, save_fitted

TASKS = [
    recmtl.Task("ctr", "click"),
    recmtl.Task("mine", "click", weight_column="own"),
    recmtl.Task("stay", "stay", kind="regression", weight_column="own"),
]
SCHEMA = recmtl.Schema([recmtl.Numeric("x"), recmtl.Categorical("c", label_rates=True)], TASKS, weight="row")


def frame(rows: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "x": rng.normal(size=rows),
            "c": rng.choice(list("ab"), rows),
            "click": rng.integers(0, 2, rows),
            "stay": rng.normal(size=rows),
            "own": rng.integers(0, 4, rows).astype(float),
            "row": rng.integers(1, 3, rows).astype(float),
        }
    )


def repeated(given: pd.DataFrame, weights: list[str]) -> pd.DataFrame:
    """Each row as often as it weighs."""
    return given.loc[np.repeat(given.index, given[weights].prod(axis=1).astype(int))].reset_index(drop=True)


def test_a_row_counts_as_often_as_it_weighs() -> None:
    """Statistics, starting bias, losses and metrics of a task, against those of repeated rows."""
    given = frame()
    data = recmtl.prepare(SCHEMA, given, holdout=0)
    own = [recmtl.Task("mine", "click"), recmtl.Task("stay", "stay", kind="regression")]
    plain = recmtl.Schema([recmtl.Numeric("x")], own)
    all_rows = recmtl.prepare(plain, repeated(given, ["own", "row"]), holdout=0)
    for weighted, counted in zip(TASKS[1:], own, strict=True):
        assert data.schema.rate(weighted).mean == pytest.approx(all_rows.schema.rate(counted).mean)
        assert data.schema.label_moments(weighted) == pytest.approx(all_rows.schema.label_moments(counted))
    by_row = recmtl.prepare(plain, repeated(given, ["row"]), holdout=0)
    assert data.schema.rate(TASKS[0]).mean == pytest.approx(by_row.schema.rate(own[0]).mean)

    (batch,), (many,) = (Loader(d.train, 999).epoch() for d in (data, all_rows))
    score = torch.tensor(np.sin(3 * given.x.to_numpy()), dtype=torch.float32)
    times = torch.tensor((given.own * given.row).to_numpy(), dtype=torch.int64)
    found = Losses(data.schema, TASKS)(dict.fromkeys(("ctr", "mine", "stay"), score), batch)
    expected = Losses(all_rows.schema, own)(dict.fromkeys(("mine", "stay"), score.repeat_interleave(times)), many)
    for name, loss in expected.items():
        assert found[name].item() == pytest.approx(loss.item(), rel=1e-5)
    assert found["ctr"].item() != pytest.approx(found["mine"].item(), rel=1e-3)


def test_label_rates_count_the_weights_of_each_task() -> None:
    data = recmtl.prepare(SCHEMA, frame(), holdout=0)
    counts = data.schema.label_counts["c"].positives / np.maximum(data.schema.label_counts["c"].rows, 1e-9)
    given = frame()
    for place, weight in enumerate([given.row, given.row * given.own]):
        for name in "ab":
            rows = given.c == name
            ids = 2 + data.schema.vocabularies["c"].to_pylist().index(name)
            assert counts[place, ids] == pytest.approx(np.average(given.click[rows], weights=weight[rows]))


def test_predictions_keep_the_weights(tmp_path) -> None:
    """In memory, in a table, in files of both formats, and in selected rows: the same metrics."""
    given = frame()
    data = recmtl.prepare(SCHEMA, given, holdout=0, out=tmp_path / "data")
    trainer = recmtl.Trainer(
        recmtl.SharedBottom(data.schema, layers=[4], tower_layers=[4]),
        run=recmtl.RunConfig(progress=False, device="cpu"),
    )
    found = trainer.predictor.predict(recmtl.PreparedData.open(tmp_path / "data").train)
    np.testing.assert_array_equal(found.task_weights["own"], given.own)
    metrics = {name: metrics_of(scores) for name, scores in found.scores().items()}
    assert metrics["ctr"].values["auc"] != metrics["mine"].values["auc"]
    weighted = Predictions.from_table(SCHEMA, found.table())
    for path in (tmp_path / "predictions.csv", tmp_path / "predictions.parquet"):
        found.write(path)
        read = {name: metrics_of(s) for name, s in Predictions.read(SCHEMA, path).scores().items()}
        assert {n: m.values.get("auc") for n, m in read.items()} == {n: m.values.get("auc") for n, m in metrics.items()}
    assert metrics_of(weighted.scores()["stay"]).values["rmse"] == pytest.approx(metrics["stay"].values["rmse"])
    half = found.select(np.arange(60) < 30)
    np.testing.assert_array_equal(half.task_weights["own"], given.own[:30])
    measured = trainer.evaluate(data.train)
    assert measured.loc["mine", "auc"] == metrics["mine"].values["auc"]
    assert "own" not in trainer.predict(given.drop(columns=["own", "click"]))


def test_a_weight_of_0_leaves_a_row_out() -> None:
    given = frame().assign(own=np.arange(60) % 2)
    data = recmtl.prepare(SCHEMA, given, holdout=0)
    values = {"ctr": np.full(60, 0.5), "mine": np.linspace(0.1, 0.9, 60), "stay": np.zeros(60)}
    rows = data.train
    predictions = Predictions(SCHEMA, values, rows.labels, rows.weight, rows.keys, task_weights=rows.task_weights)
    assert {name: len(scores) for name, scores in predictions.scores().items()} == {"ctr": 60, "mine": 30, "stay": 30}


def test_the_statistics_are_saved(tmp_path) -> None:
    fitted = recmtl.prepare(SCHEMA, frame(), holdout=0).schema
    save_fitted(fitted, tmp_path)
    assert load_fitted(tmp_path).rates == fitted.rates
    assert load_fitted(tmp_path).label_moments(TASKS[2]) == fitted.label_moments(TASKS[2])


def test_bad_weights() -> None:
    for bad, shown in ((-1.0, "-1"), (None, "None")):
        given = frame()
        given.loc[3, "own"] = bad
        with pytest.raises(recmtl.DataError, match=rf"row 4, column 'own': .*{shown}.* expected a number from 0"):
            recmtl.prepare(SCHEMA, given, holdout=0)
    with pytest.raises(recmtl.SchemaError, match="column 'own' is not in the predictions"):
        Predictions.from_table(SCHEMA, pa.table({"mine": [0.5], "click": [1], "row": [1.0]}))
    assert list(Predictions.from_table(SCHEMA, pa.table({"ctr": [0.5], "click": [1], "row": [1.0]})).values) == ["ctr"]


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"weight": "own"}, "task 'mine': `weight_column` 'own' is the row weight as well: name another one"),
        ({"keys": ["own"]}, "task 'mine': `weight_column` 'own' is the group or a key as well: name another one"),
        ({"features": [recmtl.Numeric("own")]}, "'own' is the weight of task 'mine' and cannot be a feature as well"),
        ({"tasks": [recmtl.Task("own", "y", weight_column="own")]}, "weight 'own' has the name of a task"),
    ],
)
def test_a_weight_is_nothing_else(roles: dict, said: str) -> None:
    parts = {"features": [recmtl.Numeric("x")], "tasks": TASKS[1:]} | roles
    with pytest.raises(recmtl.SchemaError, match=said):
        recmtl.Schema(**parts)


def test_an_inferred_schema_leaves_the_weight_out() -> None:
    schema = recmtl.Schema.infer(frame(), TASKS, weight="row")
    assert [feature.name for feature in schema.features] == ["x", "c"]
