"""Commands in several processes end alike: an error of one ends all, is printed once, and has the status of one."""

import os
import shutil
import signal
import socket
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from recmtl.balance import ProcessGroup
from recmtl.cli.main import main
from recmtl.train import artifacts, predictor
from tests.together import together

OWN = """
import recmtl

class FailsAtTheEnd(recmtl.Callback):
    def close(self):
        raise OSError(28, "No space left on device")
"""
MODEL = ["--model", "SharedBottom", "--model.layers", "[4]", "--model.tower_layers", "[4]", "--trainer.epochs", "1"]


def ports(processes: ProcessGroup, number: int) -> list[int]:
    """Free ports, which the first process has found."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    found = processes.broadcast_object([found.getsockname()[1] for found in sockets])
    for each in sockets:
        each.close()
    return found


def ends(processes: ProcessGroup, cases: dict[str, list[Any]], others: dict[str, list[Any]]) -> dict[str, Any]:
    """How each command ends in this process: its status, or what it raises, and its last line.

    `others` are the arguments of all but the first process, where they differ.
    """
    places = ports(processes, len(cases))
    dist.destroy_process_group()
    rank, size = processes.rank, processes.size
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
    found: dict[str, Any] = {}
    for (name, arguments), port in zip(cases.items(), places, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        given = others.get(name, arguments) if rank else arguments
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which a command ignores once it ends
        with pytest.MonkeyPatch.context() as patch, redirect_stderr(StringIO()) as said, redirect_stdout(StringIO()):
            if name in FAULTS and rank:
                patch.setattr(*FAULTS[name])
            try:
                status: Any = main([str(argument) for argument in given])
            except ArithmeticError as error:
                status = repr(error)
        found[name] = status, [line for line in said.getvalue().splitlines() if line.startswith("recmtl: ")]
    return found


def bug(*_: Any) -> None:
    raise ArithmeticError("a bug")


def leave(*_: Any) -> None:
    sys.exit(0)


def deny(*_: Any) -> None:
    raise PermissionError(13, "Permission denied", "a file")


def end(*_: Any) -> None:
    signal.raise_signal(signal.SIGTERM)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


FAULTS = {
    "bug": (predictor, "process_rows", bug),
    "exit": (predictor, "process_rows", leave),
    "denied": (predictor, "process_rows", deny),
    "ended": (predictor, "process_rows", end),
    "interrupted": (predictor, "process_rows", interrupt),
    "finish": (artifacts, "Predictor", end),
}


@pytest.mark.slow
def test_all_end_by_the_error_of_one(csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text(OWN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    options: list[Any] = ["train", "--data.card", "aliexpress", "--data.train", csv / "train.csv", *MODEL]
    options += ["--data.cache", tmp_path / "cache", "--trainer.run.tensorboard", "false"]
    run, damaged, file = tmp_path / "run", tmp_path / "damaged", tmp_path / "file"
    file.touch()
    assert main([str(argument) for argument in (*options, "--run", run)]) == 0
    shutil.copytree(run, damaged)
    (damaged / "recipe.yaml").write_text("{")
    (damaged / "metrics.json").unlink()
    rows = ["--rows", csv / "test.csv"]
    cases = {
        "file": [*options, "--run", file],
        "rows": [*options, "--run", tmp_path / "other", "--data.train", tmp_path / "missing.csv"],
        "callback": [*options, "--run", tmp_path / "other", "--trainer.callbacks", "[failing.FailsAtTheEnd]"],
        "resume": ["train", "--run", damaged, "--resume"],
        "metric": ["evaluate", run, *rows, "--metric", "failing.missing", "--draws", "0", "--timeout", "1"],
        "out": ["predict", run, *rows, "--out", file / "predictions.csv", "--timeout", "1"],
        "task": ["calibrate", run, *rows, "--task", "like", "--timeout", "1"],
        "other": ["evaluate", run, *rows],
        "bug": ["evaluate", run, *rows],
        "exit": ["evaluate", run, *rows],
        "denied": ["evaluate", run, *rows],
        "ended": ["evaluate", run, *rows],
        "interrupted": ["predict", run, *rows, "--out", tmp_path / "interrupted.csv"],
        "finish": [*options, "--run", tmp_path / "unfinished"],
        "good": ["evaluate", run, *rows, "--draws", "0"],
    }
    others = {"other": ["evaluate", run, "--rows", tmp_path / "missing.csv"]}
    first, other = together(2, tmp_path / "2", ends, cases, others)
    said = {
        "file": f"recmtl: {str(file)!r} is a file: give `--run` a folder",
        "rows": f"recmtl: there is no file {str(tmp_path / 'missing.csv')!r}",
        "callback": "recmtl: the callback FailsAtTheEnd failed in `close`: OSError: ",
        "resume": f"recmtl: {damaged / 'recipe.yaml'} is damaged: ",
        "metric": "recmtl: ",
        "out": f"recmtl: {str(file / 'predictions.csv')!r} cannot be written: {str(file)!r} is a file",
        "task": "recmtl: ",
        "other": "recmtl: process 1 of 2: ",
        "exit": f"recmtl: process 1 of 2: {__file__}, line {leave.__code__.co_firstlineno + 1}, ended the command by ",
        "denied": "recmtl: process 1 of 2: Permission denied: 'a file'",
    }
    for name, beginning in said.items():
        status, lines = first[name]
        assert (status, len(lines)) == (2, 1), (name, first[name])
        assert lines[0].startswith(beginning), name
        assert other[name] == (2, []), name
    assert first["bug"] == (1, ["recmtl: process 0 of 2: process 1 of 2 failed: ArithmeticError: a bug"])
    assert other["bug"] == ("ArithmeticError('a bug')", [])
    for name, status, reason in (("ended", 143, "ended by SIGTERM"), ("interrupted", 130, "interrupted")):
        assert first[name] == (status, [f"recmtl: process 1 of 2: {reason}"])
        assert other[name] == (status, [])
    assert first["finish"] == first["ended"]
    assert not (tmp_path / "interrupted.csv").exists()
    assert first["good"] == other["good"] == (0, [])


def test_wrong_options_are_printed_once(csv: Path, tmp_path: Path) -> None:
    """And a recipe that one process alone lacks; all end with status 2."""
    (tmp_path / "recipe.yaml").write_text("trainer: {epochs: 1}\n")
    lacking = [
        "train",
        "--data.card",
        "aliexpress",
        "--data.train",
        csv / "train.csv",
        "--run",
        tmp_path / "run",
        "--config",
    ]
    cases: dict[str, list[Any]] = {
        "spelling": ["train", "--modle", "MMOE"],
        "value": ["train", "--trainer.epochs", "x"],
        "k": ["evaluate", "run", "--rows", "rows.csv", "--k", "0"],
        "since": ["evaluate", "run", "--rows", "rows.csv", "--since", "x"],
        "until": ["calibrate", "run", "--rows", "rows.csv", "--until", "x"],
        "nothing": ["evaluate", "run"],
        "timeout": ["evaluate", "run", "--rows", "rows.csv", "--timeout", "0"],
        "predict": ["predict", "run", "--rows", "rows.csv", "--out", "out.csv", "--threads", "x"],
        "alone": ["tune", "--data.train", "rows.csv"],
        "predictions": ["evaluate", "--predictions", "rows.csv", "--card", "aliexpress"],
        "lacking": [*lacking, tmp_path / "recipe.yaml"],
    }
    others = {"lacking": [*lacking, tmp_path / "absent.yaml"]}
    found = together(2, tmp_path / "2", ends, cases, others)
    assert [[status for status, _ in each.values()] for each in found] == [[2] * len(cases)] * 2
    said = [line for each in found for _, lines in each.values() for line in lines]
    assert len(said) == len(cases), said
    assert "process 1 of 2: " in said[-1]
    assert "absent.yaml" in said[-1]
