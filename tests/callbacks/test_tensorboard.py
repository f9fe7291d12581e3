"""Event files of TensorBoard beside `metrics.jsonl`."""

import contextlib
import errno
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

import recmtl
from recmtl.callbacks import MetricsFile, TensorBoard, TrainingContext, callback_list, records
from recmtl.callbacks.records import flatten_numbers
from recmtl.train import RunFolder

Make = Callable[..., TrainingContext]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(folder)).Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_numbers_of_nested_records() -> None:
    record = {"step": 3, "valid": {"ctr": {"auc": 0.5, "logloss": None, "reason": "one class"}}, "x": float("nan")}
    assert dict(flatten_numbers(record)) == {"valid/ctr/auc": 0.5}


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
        for name, value in flatten_numbers(record):
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
def test_without_tensorboard_the_log_remains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: Make, wanted: bool
) -> None:
    for module in (callback_list, records):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    callbacks = callback_list.CallbackList.of_process([], True, tmp_path, tensorboard=wanted)
    callbacks.call("on_fit_start", context())
    callbacks.call("on_record", context(), {"step": 7, "epoch": 1, "loss": {"ctr": 0.5}})
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 7, "epoch": 1, "loss": {"ctr": 0.5}}
    with pytest.raises(recmtl.RunError, match=r"^TensorBoard needs 'tensorboard': pip install 'recmtl\[tensorboard\]'"):
        TensorBoard()


def test_a_restart_voids_older_event_files_from_its_first_step_on(tmp_path: Path, context: Make) -> None:
    for name, loss in (("first", 0.5), ("second", 0.25)):
        folder, callback = tmp_path / name, TensorBoard()
        callback.on_fit_start(context(folder=folder, step=1))
        for step in (1, 2, 3) if name == "first" else (2,):
            callback.on_record(context(), {"step": step, "loss": {"ctr": loss}})
        callback.close()
        for number, path in enumerate(folder.glob("*tfevents*")):
            path.rename(tmp_path / f"events.out.tfevents.{name}.{number}")  # both may be of the same second
    assert scalars(tmp_path) == {"loss/ctr": {1: 0.5, 2: 0.25}}


def test_a_full_disk_is_named(tmp_path: Path, context: Make) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(recmtl.DataError, match=r"metrics.jsonl' cannot be written: No space left on device"):
        MetricsFile().on_record(context(), {"step": 1, "x": 1})


@pytest.mark.parametrize("fails_at", ["open", "write", "state", "close"])
def test_a_full_disk_under_event_files_is_named_without_a_traceback(
    fails_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], context: Make
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    callback = TensorBoard()

    def write() -> None:
        if fails_at == "open":
            monkeypatch.setattr(LocalFileSystem, "_write", fail)
        callback.on_fit_start(context())
        monkeypatch.setattr(LocalFileSystem, "_write", fail)
        for step in range(100 if fails_at == "write" else 1):
            callback.on_record(context(), {"step": step, "loss": 0.5})
        if fails_at == "state":
            callback.state_dict()
        callback.close()

    hook = threading.excepthook
    with pytest.raises(recmtl.DataError, match=f"^'{tmp_path}' cannot be written: No space left on device$"):
        write()
    with contextlib.suppress(recmtl.DataError):
        callback.close()
    assert threading.excepthook is hook
    assert "Traceback" not in capfd.readouterr().err
