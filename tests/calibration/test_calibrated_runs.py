"""The calibration of a run: fitted, stored, and applied by all that predicts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import recmtl
from recmtl.calibration import Calibration, fit_calibration
from recmtl.cli.main import main
from recmtl.evaluate import Predictions
from recmtl.report import open_runs
from recmtl.report.calibration import calibration_section
from recmtl.report.elements import Text
from recmtl.runs.checkpoints import save_checkpoint
from recmtl.runs.folder import BEST, RunFolder

SHIFT = 2.0  # of the log-odds of each task, planted


def shifted(data: recmtl.PreparedData, folder: Path | None = None, **options: object) -> recmtl.Trainer:
    """A model that was trained for an epoch, whose outputs are then shifted."""
    torch.manual_seed(6)  # all rates rank better than chance
    model = recmtl.SharedBottom(data.schema, layers=[4], tower_layers=[])
    run = recmtl.RunConfig(folder=folder, progress=False, tensorboard=False, device="cpu")
    return recmtl.Trainer(model, epochs=1, run=run, **options)


def shift(trainer: recmtl.Trainer) -> None:
    with torch.no_grad():
        for head in trainer.model.heads.values():
            head.bias += SHIFT


@pytest.fixture
def run(aliexpress: recmtl.PreparedData, tmp_path: Path) -> Path:
    """A finished run with shifted outputs."""
    trainer = shifted(aliexpress)
    trainer.fit(aliexpress.train, aliexpress.valid)
    shift(trainer)
    trainer.save(tmp_path / "made")
    trainer = shifted(aliexpress, tmp_path / "run")
    trainer.fit(aliexpress.train, aliexpress.valid)
    shift(trainer)
    state = {"fingerprint": aliexpress.schema.fingerprint, "epoch": 1, "model": trainer.model.state_dict()}
    trainer.folder.begin(trainer_recipe(tmp_path / "made"))
    save_checkpoint(trainer.folder, BEST, state)
    trainer.finish({"valid": aliexpress.valid, "test": aliexpress.test})
    return tmp_path / "run"


def trainer_recipe(folder: Path) -> str:
    return (folder / "recipe.yaml").read_text()


def test_calibration_mends_a_shift_of_all_tasks_and_leaves_their_order(aliexpress: recmtl.PreparedData) -> None:
    trainer = shifted(aliexpress).fit(aliexpress.train, aliexpress.valid)
    shift(trainer)
    before = trainer.evaluate(aliexpress.test)
    shown = trainer.calibrate(aliexpress.valid, "platt")
    after = trainer.evaluate(aliexpress.test)
    assert (before.loc[["ctr", "ctcvr"], "calibration"] > 2).all()
    assert after.loc["ctr", "calibration"] == pytest.approx(1, abs=0.25)
    basis = list(trainer.model.calibration.calibrators)
    assert after.loc["ctr", "auc"] == pytest.approx(before.loc["ctr", "auc"], rel=1e-12)
    assert (after.loc[basis, "logloss"] < before.loc[basis, "logloss"]).all()
    stages = shown.set_index(["stage", "task"])
    assert stages.loc["uncalibrated", "low"]["ctr"] > stages.loc["calibrated", "high"]["ctr"]
    predicted = trainer.predict(aliexpress.test)
    np.testing.assert_allclose(predicted["ctcvr"], predicted["ctr"] * predicted["cvr"], atol=1e-12)
    assert not any(name.startswith("uncalibrated") for name in predicted)
    trainer.calibrate(aliexpress.valid, {"ctr": "isotonic"})
    assert trainer.model.calibration.methods == {"ctr": "isotonic"}
    mended = trainer.evaluate(aliexpress.test)
    assert mended.loc["ctr", "calibration"] == pytest.approx(1, abs=0.25)


@pytest.mark.parametrize("method", ["platt", {"ctr": "isotonic"}])
def test_a_calibration_of_training_is_written_and_loaded(
    method: str | dict[str, str], aliexpress: recmtl.PreparedData, tmp_path: Path
) -> None:
    trainer = shifted(aliexpress, calibration=method).fit(aliexpress.train, aliexpress.valid)
    expected = dict.fromkeys(("ctr", "cvr"), method) if isinstance(method, str) else method
    assert trainer.model.calibration.methods == expected
    predicted = trainer.predict(aliexpress.test)
    trainer.save(tmp_path / "run")
    assert RunFolder(tmp_path / "run").check() is None
    loaded = recmtl.load_run(tmp_path / "run")
    assert loaded.setup.calibration == method
    pd.testing.assert_frame_equal(loaded.predict(aliexpress.test), predicted)
    loaded.load("best", RunFolder(tmp_path / "run"))
    loaded.fit(aliexpress.train, note=lambda _: None)  # without rows to calibrate on
    assert loaded.model.calibration is None


def test_a_finished_run_is_calibrated_and_again(run: Path, aliexpress: recmtl.PreparedData) -> None:
    schema, folder = aliexpress.schema.schema, RunFolder(run)
    raw = Predictions.read(schema, folder.predictions("test"))
    found = recmtl.calibrate_run(run, aliexpress.valid, {"ctr": "isotonic"})
    assert set(found["split"]) == {"test"}
    found = recmtl.calibrate_run(run, aliexpress.valid, "platt").set_index(["stage", "task"])
    folder.check()
    stored, loaded = Predictions.read(schema, folder.predictions("test")), recmtl.load_run(run)
    fresh = loaded.predictor.predict(aliexpress.test)
    assert loaded.model.calibration.methods == {"ctr": "platt", "cvr": "platt"}
    for name, values in fresh.table().to_pydict().items():
        if name in ("ctr", "cvr", "ctcvr") or name.startswith("uncalibrated"):
            np.testing.assert_allclose(stored.table()[name].to_numpy(), values, rtol=1e-9)
    before = stored.before_calibration().table()
    for name in ("ctr", "cvr", "ctcvr"):
        np.testing.assert_allclose(before[name].to_numpy(), raw.table()[name].to_numpy(), rtol=1e-9)
    metrics = json.loads((run / "metrics.json").read_text())
    measured = loaded.evaluate(aliexpress.test)
    assert metrics["test"]["ctr"]["logloss"] == pytest.approx(measured.loc["ctr", "logloss"], rel=1e-9)
    assert found.loc["uncalibrated", "low"]["ctr"] > found.loc["calibrated", "high"]["ctr"]


def test_the_method_that_was_used_is_shown_of_each_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A multi-class task takes temperature scaling whatever the method of the others is."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=600)})
    frame["click"] = (frame["x"] + rng.normal(size=600) > 0).astype(int)
    frame["kind"] = rng.choice(["a", "b", "c"], 600)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    path, rows = tmp_path / "run", str(tmp_path / "rows.csv")
    quick = ["--trainer.epochs", "1", "--trainer.run.progress", "false", "--model.layers", "[4]", "--run", str(path)]
    data = ["--data.train", rows, "--data.test", rows, "--label", "click", "--label", "kind"]
    assert main(["train", *data, "--model", "SharedBottom", *quick]) == 0
    assert main(["calibrate", str(path), "--rows", rows, "--method", "platt"]) == 0
    used = "platt (click), temperature (kind)"
    assert capsys.readouterr().out.splitlines()[-1] == f"{used} · run in {path}"
    tasks_in_file = json.loads((path / "calibration.json").read_text())["tasks"]
    assert {task: found["method"] for task, found in tasks_in_file.items()} == {"click": "platt", "kind": "temperature"}
    found = recmtl.load_run(path).calibrate(rows, "platt")
    assert dict(zip(found["task"], found["method"], strict=True)) == {"click": "platt", "kind": "temperature"}
    section = calibration_section(open_runs([path]), [], None, None, lambda what, rows: None)
    assert f"Calibrated by {used}." in [part.text for part in section.parts if isinstance(part, Text)]


def test_what_cannot_be_calibrated_is_said_and_changes_nothing(run: Path, aliexpress: recmtl.PreparedData) -> None:
    trainer = recmtl.load_run(run)
    trainer.calibrate(aliexpress.valid, "platt")
    before = trainer.model.calibration
    predictions = trainer.predictor.predict(aliexpress.valid).before_calibration()
    none = predictions.labels["click"] == 0
    cases: list[tuple[Predictions, object, type[Exception], str]] = [
        (predictions.select(none), "platt", recmtl.DataError, "'ctr' cannot be calibrated by platt: every one of the"),
        (predictions.select(none & ~none), "platt", recmtl.DataError, "no row has a label"),
        (predictions, {"ctr": "spline"}, ValueError, "must be by isotonic, platt, temperature, got 'spline'"),
        (predictions, {"clicks": "platt"}, ValueError, "must name tasks of ctr, .*, got 'clicks'"),
    ]
    for given, method, kind, said in cases:
        with pytest.raises(kind, match=said):
            fit_calibration(given, method)
    some = np.flatnonzero(predictions.labels["click"] == 1)[:3]
    mask = none.copy()
    mask[some] = True
    with pytest.raises(recmtl.DataError, match="expected at least 50 positives, got 3"):
        fit_calibration(predictions.select(mask), "isotonic")
    with pytest.raises(ValueError, match="'spline'"):
        trainer.calibrate(aliexpress.valid, "spline")
    assert trainer.model.calibration is before
    with pytest.raises(ValueError, match="got 'spline'"):
        recmtl.Trainer(trainer.model, calibration="spline")


def test_an_error_names_tasks_that_can_be_calibrated() -> None:
    kinds = {"rare": "binary", "common": "binary", "never": "binary", "spent": "amount"}
    tasks = [recmtl.Task(name, name, kind=kind) for name, kind in kinds.items()]
    schema, labels = recmtl.Schema([recmtl.Numeric("x")], tasks), np.repeat([0.0, 1.0], 90)
    values = dict.fromkeys(kinds, np.linspace(0.2, 0.8, 180))
    predictions = Predictions(schema, values, dict.fromkeys(kinds, 0 * labels) | {"common": labels}, None, pa.table({}))
    with pytest.raises(recmtl.DataError, match=r"'rare' cannot .*; name the tasks to calibrate, of common$"):
        fit_calibration(predictions, "platt")
    with pytest.raises(ValueError, match=r"must name tasks of rare, common, never, got 'sold'$"):
        fit_calibration(predictions, {"sold": "platt"})


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_rows_count_by_their_weights(kind: str) -> None:
    """Of 90 positives and as many negatives, where a few weights hold most of the sum: (Σ w)² / Σ w² decides."""
    classes = ("0", "1") * (kind == "multiclass")
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("t", "t", kind=kind, classes=classes)])
    labels, p = np.repeat([0.0, 1.0], 90), np.linspace(0.2, 0.8, 180)
    values = {"t": np.stack([1 - p, p], 1) if classes else p}

    def fitted(weight: np.ndarray, method: Any = "temperature") -> Calibration:
        return fit_calibration(Predictions(schema, values, {"t": labels}, weight, pa.table({})), method)

    heavy = np.ones(180)
    heavy[90:95] = 1000.0
    count, what = (180, "rows") if classes else (90, "positives")
    kish = heavy if classes else heavy[90:]
    like = kish.sum() ** 2 / (kish**2).sum()
    said = f"expected at least 10 {what}, got {count}, whose weights make them count like {like:.1f}"
    with pytest.raises(recmtl.DataError, match=said):
        fitted(heavy)
    assert fitted(np.where(labels == 0, 3.0, 1.0)).methods == {"t": "temperature"}  # one weight for each class
    for method in ("platt", {"t": "platt"}):  # classes take a temperature in any case
        assert fitted(np.ones(180), method).methods == {"t": "temperature" if classes else "platt"}


def test_tasks_without_probabilities_are_left_out(small: recmtl.PreparedData) -> None:
    rng = np.random.default_rng(0)
    values = {task: rng.random(len(small.train)) for task in ("ctr", "cvr", "stay")}
    given = Predictions(small.schema.schema, values, small.train.labels, small.train.weight, small.train.keys)
    sorted_by_label = {
        name: np.clip(0.5 * v + 0.3 * small.train.labels[c], 0, 1)
        for (name, v), c in zip(values.items(), ("click", "conversion", "stay"), strict=True)
    }
    given = Predictions(
        given.schema,
        {**values, **{n: np.nan_to_num(v, nan=0.5) for n, v in sorted_by_label.items()}},
        given.labels,
        given.weight,
        given.keys,
    )
    assert list(fit_calibration(given, "temperature").calibrators) == ["ctr", "cvr"]
    with pytest.raises(ValueError, match="'platt' calibrates binary tasks, 'stay' is regression"):
        fit_calibration(given, {"stay": "platt"})
    with pytest.raises(ValueError, match="'ctcvr' follows from ctr, cvr"):
        fit_calibration(given, {"ctcvr": "platt"})


def test_a_task_that_training_cannot_calibrate_is_noted(aliexpress: recmtl.PreparedData) -> None:
    notes: list[str] = []
    trainer = shifted(aliexpress, calibration="platt")
    table = aliexpress.valid.table.slice(0, 30)
    trainer.fit(aliexpress.train, recmtl.Rows(aliexpress.schema, table), note=notes.append)
    assert any("cannot be calibrated by platt: " in note for note in notes)
    shifted(aliexpress, calibration="platt").fit(aliexpress.train, note=notes.append)
    assert notes[-1] == "the model is not calibrated: there are no validation rows"


def test_a_continued_run_says_that_it_is_not_calibrated(run: Path, csv: Path, tmp_path: Path) -> None:
    recmtl.calibrate_run(run, csv / "valid.csv", "platt")
    notes: list[str] = []
    given = {"train": csv / "test.csv", "valid": csv / "valid.csv", "allow_repeat": True}
    options = ["--trainer.epochs", "1"]
    again = recmtl.continue_run(run, **given, folder=tmp_path / "next", options=options, note=notes.append)
    assert again.model.calibration is None
    assert any("the run that continues it is not: calibrate it by `recmtl calibrate`" in note for note in notes)
    options += ["--trainer.calibration", "platt"]
    again = recmtl.continue_run(run, **given, folder=tmp_path / "other", options=options, note=notes.append)
    assert (tmp_path / "other" / "calibration.json").exists()
    assert set(again.model.calibration.methods.values()) == {"platt"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content.update(layout=7), "expected layout 2, got 7: calibrate the run again"),
        (lambda content: content["tasks"]["ctr"].update(slope=-1), "expected a `slope` above 0"),
        (lambda content: content["tasks"]["ctr"].pop("method"), "is damaged"),
        (lambda content: content.pop("tasks"), "is damaged"),
    ],
)
def test_a_damaged_file_is_an_error(
    change: Callable[[dict[str, object]], None], said: str, aliexpress: recmtl.PreparedData, tmp_path: Path
) -> None:
    trainer = shifted(aliexpress, calibration="platt").fit(aliexpress.train, aliexpress.valid)
    trainer.save(tmp_path / "run")
    path = tmp_path / "run" / "calibration.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(recmtl.RunError, match="does not match its checksum"):
        Calibration.read(RunFolder(tmp_path / "run"))
    (tmp_path / "run" / "checksums.json").unlink()
    with pytest.raises(recmtl.RunError, match=said):
        Calibration.read(RunFolder(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("method", [{"ctr": "isotonic"}, "platt"])
def test_an_exported_model_scores_as_the_calibrated_run(
    method: str | dict[str, str], run: Path, aliexpress: recmtl.PreparedData, csv: Path, tmp_path: Path
) -> None:
    recmtl.calibrate_run(run, aliexpress.valid, method)
    exported = recmtl.export_model(run, tmp_path / "model")
    assert exported.difference < 1e-5
    rows = pd.read_csv(csv / "test.csv").head(200)
    expected = recmtl.load_run(run).predict(rows)
    scorer = recmtl.Scorer(tmp_path / "model")
    scores = scorer.score(rows)
    for task in ("ctr", "cvr", "ctcvr"):
        np.testing.assert_allclose(scores[task], expected[task], atol=1e-5)
    assert scorer.metadata["calibration"] == recmtl.load_run(run).model.calibration.methods


def test_the_command_prints_both_stages(
    run: Path, csv: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["calibrate", str(run), "--rows", f"{csv}/valid.csv", "--method", "platt"]
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert "calibration on the test rows" in printed
    assert printed.count("uncalibrated") == 3
    assert main([*given, "--task", "ctr"]) == 0
    assert list(json.loads((run / "calibration.json").read_text())["tasks"]) == ["ctr"]
    columns = pq.read_schema(run / "predictions" / "test.parquet").names
    assert "uncalibrated_ctr" in columns
    assert main([*given, "--task", "clicks"]) == 2
    assert "must name tasks of ctr" in capsys.readouterr().err
    assert main(["predict", str(run), "--rows", f"{csv}/test.csv", "--out", str(tmp_path / "p.csv")]) == 0
    assert main(["evaluate", str(run), "--rows", f"{csv}/test.csv", "--draws", "0"]) == 0


def test_a_run_whose_test_rows_have_no_labels_is_calibrated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=600)})
    frame["click"] = (frame["x"] + rng.normal(size=600) > 0).astype(int)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.assign(click=None).to_csv(tmp_path / "test.csv", index=False)
    path, rows = tmp_path / "run", str(tmp_path / "rows.csv")
    quick = ["--trainer.epochs", "1", "--trainer.run.progress", "false", "--model.layers", "[4]", "--run", str(path)]
    data = ["--data.train", rows, "--data.test", str(tmp_path / "test.csv"), "--label", "click"]
    assert main(["train", *data, "--model", "SharedBottom", *quick]) == 0
    assert main(["calibrate", str(path), "--rows", rows]) == 0
    assert "calibration on the valid rows" in capsys.readouterr().out
