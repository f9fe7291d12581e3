"""The files of a finished run."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import recmtl
from recmtl.data import Loader
from recmtl.evaluate import measure, metric_names
from recmtl.io import machine
from recmtl.models import RankingModel
from recmtl.report import ReportedRun
from recmtl.train import RunFolder
from recmtl.train.predictor import Predictor

LAYERS = {"layers": [8], "tower_layers": []}


def finished(data: recmtl.PreparedData, model: RankingModel, folder: Path, **options: bool) -> recmtl.Trainer:
    run = recmtl.RunConfig(folder=folder, progress=False, device="cpu", tensorboard=False, **options)
    trainer = recmtl.Trainer(model, epochs=1, run=run).fit(data.train, data.valid)
    trainer.finish({"valid": data.valid, "test": data.test})
    return trainer


@pytest.fixture
def mmoe(aliexpress: recmtl.PreparedData) -> recmtl.MMOE:
    torch.manual_seed(0)
    return recmtl.MMOE(aliexpress.schema, experts=3, **LAYERS)


def test_saved_predictions_give_the_saved_metrics(
    aliexpress: recmtl.PreparedData, mmoe: recmtl.MMOE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted, plain = [], Predictor._uncalibrated

    def outputs(self: Predictor, rows: recmtl.Rows) -> dict[str, np.ndarray]:
        predicted.append(rows)
        return plain(self, rows)

    monkeypatch.setattr(Predictor, "_uncalibrated", outputs)
    trainer = finished(aliexpress, mmoe, tmp_path)
    assert [rows.name for rows in predicted] == ["valid", "valid", "test"]  # the first while it was trained
    result, schema = json.loads((tmp_path / "metrics.json").read_text()), aliexpress.schema.schema
    for name in ("valid", "test"):
        rows = aliexpress.splits[name]
        read = recmtl.Predictions.read(schema, RunFolder(tmp_path).predictions(name))
        for task, values in trainer.predictor.outputs(rows).items():
            np.testing.assert_array_equal(read.values[task], values)
        capped = {task: metrics.pop("capped", 0) for task, metrics in result[name].items()}
        assert capped["ctcvr"] == capped["cvr"] >= 0  # which a file of all three no longer says
        again = measure(schema, read.values, read.labels, read.weight, read.keys)
        assert result[name].keys() == again.keys()
        for task, measured in again.items():  # sums of BLAS may differ in the last bit
            assert result[name][task] == pytest.approx(measured.to_dict(), rel=1e-12, abs=0, nan_ok=True)
        assert set(metric_names("binary", True)) <= set(result[name]["ctr"])
    assert 0 < result["seconds"] < 600


def test_a_finished_run_keeps_the_best_weights_alone(
    aliexpress: recmtl.PreparedData, mmoe: recmtl.MMOE, tmp_path: Path
) -> None:
    run = recmtl.RunConfig(folder=tmp_path, progress=False, device="cpu", tensorboard=False)
    trainer = recmtl.Trainer(mmoe, epochs=2, run=run).fit(aliexpress.train, aliexpress.valid)
    assert len(RunFolder(tmp_path).steps()) == 2
    trainer.finish({"test": aliexpress.test})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best", "optimizers"]
    expected = trainer.predictor.outputs(aliexpress.test)["ctr"]
    np.testing.assert_array_equal(trainer.load().predictor.outputs(aliexpress.test)["ctr"], expected)


def test_expert_usage_is_the_mean_gate_on_the_test_rows(
    aliexpress: recmtl.PreparedData, mmoe: recmtl.MMOE, tmp_path: Path
) -> None:
    finished(aliexpress, mmoe, tmp_path / "gates")
    usage = RunFolder(tmp_path / "gates").usage()
    (batch,) = Loader(aliexpress.test, 1000).epoch()
    with torch.inference_mode():
        gates = mmoe.gates(mmoe.encoder(batch)).mean(0)  # [H, E]
    np.testing.assert_allclose([usage["ctr"], usage["ctcvr"]], gates.numpy(), rtol=1e-5)
    finished(aliexpress, recmtl.SharedBottom(aliexpress.schema, **LAYERS), tmp_path / "none")
    assert not (tmp_path / "none" / "usage.json").exists()
    assert RunFolder(tmp_path / "none").usage() == {}
    (tmp_path / "gates" / "usage.json").write_text("[]")
    with pytest.raises(recmtl.RunError, match=r"usage.json is damaged"):
        RunFolder(tmp_path / "gates").usage()


def test_gates_that_are_not_finite_have_no_usage(
    aliexpress: recmtl.PreparedData, mmoe: recmtl.MMOE, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = recmtl.MMOE.expert_usage
    monkeypatch.setattr(
        recmtl.MMOE, "expert_usage", lambda *args: {**(u := plain(*args)), "ctr": u["ctr"].fill_(torch.nan)}
    )
    trainer = recmtl.Trainer(mmoe, run=recmtl.RunConfig(progress=False, device="cpu"))
    assert list(trainer.predictor.expert_usage(aliexpress.test)) == ["ctcvr"]


def test_a_report_needs_saved_predictions(aliexpress: recmtl.PreparedData, mmoe: recmtl.MMOE, tmp_path: Path) -> None:
    finished(aliexpress, mmoe, tmp_path, predictions=False)
    assert not (tmp_path / "predictions").exists()
    assert (tmp_path / "metrics.json").exists()
    with pytest.raises(recmtl.RunError, match=r"has no predictions of test or validation rows.*predictions false"):
        ReportedRun.open(tmp_path)


def test_nothing_is_written_without_a_folder(
    aliexpress: recmtl.PreparedData, mmoe: recmtl.MMOE, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Predictor, "expert_usage", None)
    trainer = recmtl.Trainer(mmoe, epochs=1, run=recmtl.RunConfig(progress=False, device="cpu")).fit(aliexpress.train)
    assert set(trainer.finish({"test": aliexpress.test})["test"]) == {"ctr", "cvr", "ctcvr"}
    assert trainer.result.seconds > 0


@pytest.mark.skipif(sys.platform != "linux", reason="no data folder /proc")
def test_peak_memory_excludes_the_parent_process() -> None:
    code = f"import runpy; print(runpy.run_path({machine.__file__!r})['peak_memory']())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = runpy.run_path(machine.__file__)["peak_memory"]()
    assert 1e6 < int(child.stdout) < 1e8 < here
