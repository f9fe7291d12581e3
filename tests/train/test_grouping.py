"""A group or key may be a feature as well, and a training may be judged within any key."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.comparison.comparison import metrics_by_task
from recmtl.recipe.load import load_run

ROWS = 600
RUN = {"epochs": 1, "run": recmtl.RunConfig(progress=False, device="cpu")}


def frame(seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    user = rng.integers(0, 25, ROWS)
    click = rng.random(ROWS) < (user + 1) / 27  # the user says nearly all
    return pd.DataFrame({"user_id": user, "search": np.arange(ROWS) // 4, "x": rng.normal(size=ROWS), "click": click})


def trained(schema: recmtl.Schema, **stopping: str) -> tuple[recmtl.Trainer, recmtl.PreparedData]:
    data = recmtl.prepare(schema, frame(), valid=frame(1), test=frame(2))
    model = recmtl.SharedBottom(data.schema, layers=[4])
    trainer = recmtl.Trainer(model, stopping=recmtl.EarlyStopping(monitor="ctr.gauc", **stopping), **RUN)
    trainer.fit(data.train, data.valid)
    return trainer, data


FEATURES = [recmtl.Categorical("user_id"), recmtl.Numeric("x")]
TASKS = [recmtl.Task("ctr", "click")]


def test_the_group_is_a_feature_as_well() -> None:
    trainer, data = trained(recmtl.Schema(FEATURES, TASKS, group="user_id"))
    assert data.schema.vocabularies["user_id"].to_pylist().count("7") == 1
    measured = trainer.predictor.measure(data.test)["ctr"]
    assert measured.groups == 25
    assert trainer.predict(frame(2))["user_id"].tolist() == frame(2)["user_id"].tolist()
    assert len(recmtl.describe(data).columns) == len(recmtl.describe(frame(), data.schema.schema).columns) == 2


def test_held_out_groups_are_unknown_users_and_a_note_says_so() -> None:
    data = recmtl.prepare(recmtl.Schema(FEATURES, TASKS, group="user_id"), frame())
    assert "no held-out row has a 'user_id' of the training rows: give validation rows that have some" in data.notes


def test_an_id_that_is_a_number_as_well_is_not_rounded(tmp_path: Path) -> None:
    ids = [2**53, 2**53 + 1] * 10
    rows = pd.DataFrame({"user_id": ids, "x": range(20), "click": [0, 1] * 10})
    rows.to_csv(tmp_path / "a.csv", index=False)
    schema = recmtl.Schema([recmtl.Numeric("user_id"), recmtl.Numeric("x")], TASKS, group="user_id")
    data = recmtl.prepare(schema, tmp_path / "a.csv", holdout=0)
    assert data.train.keys["user_id"].to_pylist() == ids


@pytest.mark.parametrize("group", ["user_id", "search"])
def test_a_training_is_judged_within_a_key(group: str) -> None:
    schema = recmtl.Schema(FEATURES, TASKS, group="search", keys=["user_id"])
    trainer, data = trained(schema, group=group)
    predictions = trainer.predictor.predict(data.valid)
    expected = recmtl.evaluate.metrics_of(predictions.grouped_by(group).scores()["ctr"])
    assert trainer.result.best == expected.values["gauc"]
    assert trainer.predictor.measure(data.valid)["ctr"] == expected
    assert expected.groups == {"user_id": 25, "search": 150}[group]


def test_amounts_are_monitored_within_a_key() -> None:
    def rows(seed: int) -> pd.DataFrame:
        given = frame(seed)
        return given.assign(seconds=np.round(given["user_id"] % 5 * given["click"] * np.exp(given["x"])))

    tasks = [recmtl.Task("watch", "seconds", kind="amount"), recmtl.Task("stay", "seconds", kind="regression")]
    schema = recmtl.Schema(FEATURES[1:], tasks, keys=["user_id"])
    data = recmtl.prepare(schema, rows(0), valid=rows(1))
    stopping = recmtl.EarlyStopping(monitor="ndcg@10", group="user_id")
    trainer = recmtl.Trainer(recmtl.SharedBottom(data.schema, layers=[4]), stopping=stopping, **RUN)
    trainer.fit(data.train, data.valid)
    measured = trainer.predictor.measure(data.valid)
    assert trainer.result.best == measured["watch"].values["ndcg@10"]
    assert (measured["watch"].groups, measured["watch"].groups_left_out) == (25, 5)  # the amounts of every fifth are 0
    assert "ndcg@10" not in measured["stay"].values


def test_a_schema_without_a_group_is_judged_within_a_key() -> None:
    trainer, data = trained(recmtl.Schema(FEATURES, TASKS, keys=["user_id"]), group="user_id")
    assert trainer.predictor.measure(data.valid)["ctr"].groups == 25
    with pytest.raises(
        ValueError, match=r"`trainer.stopping.group` must be .* 'user_id', got 'search': name it by `--group search`"
    ):
        trained(recmtl.Schema(FEATURES, TASKS, keys=["user_id"]), group="search")


def test_a_grouping_column_is_a_feature_if_its_kind_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, seed in (("a.csv", 0), ("b.csv", 1)):
        frame(seed).drop(columns="search").to_csv(name, index=False)
    options = ["--trainer.epochs", "1", "--trainer.run.progress", "false", "--trainer.run.device", "cpu"]
    options += ["--model", "SharedBottom", "--model.layers", "[4]", "--trainer.stopping.monitor", "click.gauc"]
    said = ["--label", "click", "--group", "user_id", "--kind", "user_id=categorical", "--data.valid", "b.csv"]
    assert main(["train", "--data.train", "a.csv", *said, *options, "--run", "run"]) == 0
    schema = load_run("run").model.schema.schema
    assert [f.name for f in schema.features] == ["user_id", "x"]
    assert schema.group == "user_id"
    unsaid = recmtl.Schema.infer("a.csv", ["click"], group="user_id")
    assert [f.name for f in unsaid.features] == ["x"]
    assert [
        f.name for f in recmtl.Schema.infer("a.csv", ["click"], {"user_id": "binned"}, keys=["user_id"]).features
    ] == [
        "user_id",
        "x",
    ]


def test_a_comparison_takes_metrics_within_groups_if_the_runs_measure_them() -> None:
    schema = recmtl.Schema(FEATURES, TASKS, keys=["user_id"])
    assert metrics_by_task(schema, "gauc", grouped=True) == {"ctr": "gauc"}
    with pytest.raises(ValueError, match=r"got 'gauc': name the group by `--group COLUMN`, or a key by `--trainer"):
        metrics_by_task(schema, "gauc", grouped=False)
    with pytest.raises(ValueError, match=r"got 'r2'$"):
        metrics_by_task(schema, "r2", grouped=False)
