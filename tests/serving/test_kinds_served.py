"""Exported models of classes and amounts: arrays, DataFrames, lines of JSON, and a server's answer."""

import io
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.cli.export import print_cost
from recmtl.serving import export
from recmtl.serving.manifest import read_manifest
from recmtl.serving.reader import Model, score_lines
from recmtl.serving.server.app import answer_body
from recmtl.serving.server.served import Contract
from recmtl.train import device

TASKS = [
    recmtl.Task("stars", "stars", kind="multiclass"),
    recmtl.Task("spent", "spent", kind="amount", loss="ziln"),
    recmtl.Task("views", "views", kind="amount"),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, recmtl.Trainer, pd.DataFrame]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user": rng.integers(0, 9, 300).astype(str), "x": rng.normal(size=300)})
    frame = frame.assign(stars=rng.choice(["a", "b", "c"], 300), spent=rng.exponential(size=300) * (frame.x > 0))
    frame = frame.assign(views=rng.poisson(2, 300))
    schema = recmtl.Schema([recmtl.Categorical("user"), recmtl.Numeric("x")], TASKS)
    data = recmtl.prepare(schema, frame, holdout=0)
    style = recmtl.LayerStyle(ensemble=2)
    model = recmtl.SharedBottom(data.schema, layers=[8], tower_layers=[4], style=style)
    trainer = recmtl.Trainer(model, epochs=1, run=recmtl.RunConfig(progress=False)).fit(data.train)
    folder = tmp_path_factory.mktemp("served") / "model"
    recmtl.export_model(trainer, folder, rows=frame)
    return folder, trainer, frame


def test_scores_are_those_of_the_run(exported: tuple[Path, recmtl.Trainer, pd.DataFrame]) -> None:
    folder, trainer, frame = exported
    scorer, expected = recmtl.Scorer(folder), trainer.predict(frame)
    assert scorer.classes == {"stars": ("a", "b", "c")}
    found = scorer.score(frame)
    assert list(found) == ["stars_a", "stars_b", "stars_c", "spent", "views"]
    for name in found:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-6)
    rows = frame[["user", "x"]].head(3).to_dict("records")
    arrays = scorer.score(rows)
    assert {name: values.shape for name, values in arrays.items()} == {"stars": (3, 3), "spent": (3,), "views": (3,)}
    assert scorer.score(rows[:0])["stars"].shape == (0, 3)
    lines = io.StringIO("".join(json.dumps(row) + "\n" for row in rows))
    first = json.loads(next(score_lines(Model(folder), lines)))
    assert first["stars"] == pytest.approx(dict(zip("abc", arrays["stars"][0], strict=True)))
    assert first["spent"] == pytest.approx(arrays["spent"][0])


def test_what_weights_cost_is_shown_by_the_main_metric_of_each_task(
    exported: tuple[Path, recmtl.Trainer, pd.DataFrame],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "CHECK_ROWS", 100)
    _, trainer, frame = exported
    rows = frame.assign(views=0.0)
    cost = recmtl.export_model(trainer, tmp_path / "model", "torch", "int8", rows).cost
    metrics = trainer.evaluate(rows)
    found = {task: (before.metric, before.value) for task, (before, _) in cost.metrics.items()}
    assert found["stars"] == ("macro_auc", pytest.approx(metrics.loc["stars", "macro_auc"], abs=1e-4))
    assert found["spent"] == ("gini", pytest.approx(metrics.loc["spent", "gini"], abs=1e-4))
    assert found["views"] == ("gini", None)
    print_cost(cost, "int8")
    said = capsys.readouterr()
    assert "mean AUC of classes of stars on 300 given rows: 0." in said.out
    assert "Gini of views on 300 given rows is undefined: " in said.err


def test_what_the_precision_of_a_run_changes_is_said(
    exported: tuple[Path, recmtl.Trainer, pd.DataFrame], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Predictions in bf16 differ from the exported model's by what is printed, and it is compared in fp32."""
    monkeypatch.setattr(export, "CHECK_ROWS", 100)
    folder, trainer, _ = exported
    assert read_manifest(folder)["measured"]["precision_difference"] == 0
    optimization = replace(trainer.setup.optimization, precision="bf16")
    monkeypatch.setattr(trainer, "setup", replace(trainer.setup, optimization=optimization))
    monkeypatch.setattr(device, "times_fp32", lambda *_: 1.0)
    found = recmtl.export_model(trainer, tmp_path / "bf16", "torch")
    assert found.difference < 1e-5 < found.precision_difference
    measured = read_manifest(tmp_path / "bf16")["measured"]
    assert (measured["precision"], measured["precision_difference"]) == ("bf16", found.precision_difference)


def test_a_server_answers_by_class_and_takes_no_model_of_others(
    exported: tuple[Path, recmtl.Trainer, pd.DataFrame],
) -> None:
    scorer = recmtl.Scorer(exported[0])
    contract = Contract.of(scorer.metadata)
    scores = scorer.score([{"user": "1", "x": 0.5}, {"user": "2", "x": None}])
    answer = json.loads(answer_body((scores, SimpleNamespace(version="v", contract=contract))))
    assert list(answer["tasks"]["stars"]) == ["a", "b", "c"]
    assert answer["tasks"]["stars"]["b"] == scores["stars"][:, 1].tolist()
    tasks = [t | ({"classes": ["a", "b"]} if "classes" in t else {}) for t in scorer.metadata["tasks"]]
    other = Contract.of(scorer.metadata | {"tasks": tasks})
    assert contract.breach(other) == "its task 'stars' has other classes than clients read"
