"""The log of a run: metrics.jsonl and TensorBoard event files."""

import errno
import json
import sys
import threading
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem
from torch import nn

import recmtl
from recmtl.runs import logger as log_module
from recmtl.runs.logger import MetricLogger, flatten_numbers
from recmtl.train import RunFolder


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_numbers_of_nested_records() -> None:
    record = {"step": 3, "valid": {"ctr": {"auc": 0.5, "logloss": None, "reason": "one class"}}, "x": float("nan")}
    assert dict(flatten_numbers(record)) == {"step": 3, "valid/ctr/auc": 0.5}


def test_event_files_hold_the_records_of_the_log(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    torch.manual_seed(0)
    run = recmtl.RunConfig(folder=tmp_path / "run", log_every=4, progress=False, device="cpu")
    model = recmtl.MMOE(aliexpress.schema, experts=2, layers=[8])
    options = recmtl.Optimization(batch_size=256)
    trainer = recmtl.Trainer(model, recmtl.MetaBalance(), 1, gradient_stats_every=2, optimization=options, run=run)
    trainer.fit(aliexpress.train, aliexpress.valid)
    found = scalars(tmp_path / "run")
    expected: dict[str, dict[int, float]] = {}
    for record in RunFolder(tmp_path / "run").records():
        for name, value in flatten_numbers({k: v for k, v in record.items() if k not in ("step", "epoch")}):
            expected.setdefault(name, {})[record["step"]] = pytest.approx(value, rel=1e-6)
    assert found == expected
    for tag in (
        "loss/ctr",
        "weight/ctcvr",
        "valid/ctr/auc",
        "diagnosis/gradient_norm/ctr",
        "diagnosis/cosine/ctr·ctcvr",
    ):
        assert tag in found
    assert list(found["diagnosis/weight/ctcvr"]) == [2, 4, 6, 8, 10]


@pytest.mark.parametrize("wanted", [False, True])
def test_without_tensorboard_the_log_remains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    if wanted:
        monkeypatch.setattr(log_module, "find_spec", lambda name: None)
        monkeypatch.setitem(sys.modules, "tensorboard", None)
    with MetricLogger(RunFolder(tmp_path), tensorboard=wanted) as log:
        log.write(7, 1, {"loss": {"ctr": 0.5}})
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 7, "epoch": 1, "loss": {"ctr": 0.5}}


def test_a_restart_voids_older_event_files_from_its_first_step_on(tmp_path: Path) -> None:
    for name, loss in (("first", 0.5), ("second", 0.25)):
        folder = tmp_path / name
        with MetricLogger(RunFolder(folder), tensorboard=True, done=1) as log:
            for step in (1, 2, 3) if name == "first" else (2,):
                log.write(step, 1, {"loss": {"ctr": loss}})
        for number, path in enumerate(folder.glob("*tfevents*")):
            path.rename(tmp_path / f"events.out.tfevents.{name}.{number}")  # both may be of the same second
    assert scalars(tmp_path) == {"loss/ctr": {1: 0.5, 2: 0.25}}


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(recmtl.DataError, match=r"metrics.jsonl' cannot be written: No space left on device"):
        MetricLogger(RunFolder(tmp_path), tensorboard=False).write(1, 1, {"x": 1})


@pytest.mark.parametrize("fails_at", ["open", "write", "flush", "close"])
def test_a_full_disk_under_event_files_is_named_without_a_traceback(
    fails_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    def write() -> None:
        if fails_at == "open":
            monkeypatch.setattr(LocalFileSystem, "_write", fail)
        with MetricLogger(RunFolder(tmp_path), tensorboard=True) as log:
            monkeypatch.setattr(LocalFileSystem, "_write", fail)
            for step in range(100 if fails_at == "write" else 1):
                log.write(step, 1, {"loss": 0.5})
            if fails_at == "flush":
                log.flush()

    hook = threading.excepthook
    with pytest.raises(recmtl.DataError, match=f"^'{tmp_path}' cannot be written: No space left on device$"):
        write()
    assert threading.excepthook is hook
    assert "Traceback" not in capfd.readouterr().err


class Broken(nn.Module):
    """A tower that returns NaN from its third batch on."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(features, 1), 0

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return self.layer(view) * (float("nan") if self.calls > 2 else 1.0)


def test_nonfinite_values_are_reported_once_by_name(
    aliexpress: recmtl.PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = recmtl.SharedBottom(aliexpress.schema, layers=[8], towers={"ctcvr": Broken})
    run = recmtl.RunConfig(folder=tmp_path / "run", log_every=1, device="cpu")
    options = recmtl.Optimization(batch_size=256)
    trainer = recmtl.Trainer(model, recmtl.PCGrad(), 2, optimization=options, run=run).fit(aliexpress.train)
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert said == ["step 3: left out for not being finite: task ctcvr"]
    assert trainer.result.skipped["ctcvr"] == 18
    assert "ctr" not in trainer.result.skipped
    records = [r for r in RunFolder(tmp_path / "run").records() if "skipped" in r]
    assert [r["step"] for r in records] == list(range(3, 21))
    assert records[0]["skipped"]["ctcvr"] == 1
    assert all(p.isfinite().all() for p in model.parameters())
