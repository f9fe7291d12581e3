"""Commands under torchrun."""

import json
import os
import subprocess
import time
from collections import Counter
from contextlib import redirect_stdout
from datetime import timedelta
from functools import partial
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.cli.main import main
from recmtl.recipe.data import open_data
from recmtl.recipe.data_options import DataOptions
from recmtl.recipe.shared_data import open_shared_data
from recmtl.runs.checkpoint_file import read_checkpoint
from recmtl.train import RunFolder
from tests.large_card import LARGE_CARD
from tests.together import together

pytestmark = pytest.mark.slow

TIMEOUT = 240  # seconds; a launch takes about 10 on a quiet machine


@pytest.fixture
def options(csv: Path, tmp_path: Path) -> list[str]:
    return [
        *("train", "--data.card", "aliexpress", "--data.train", str(csv / "train.csv")),
        *("--data.valid", str(csv / "valid.csv"), "--data.test", str(csv / "test.csv")),
        *("--data.cache", str(tmp_path / "cache"), "--model", "SharedBottom", "--model.layers", "[16,8]"),
        *("--model.tower_layers", "[8]", "--balancer", "MetaBalance", "--trainer.epochs", "3"),
        *("--trainer.optimization.batch_size", "200", "--trainer.run.tensorboard", "false"),
    ]


def torchrun(
    python: Path, number: int, *arguments: str, restarts: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """`--` keeps torchrun from reading options that are not its own."""
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(number)]
    command += ["--max-restarts", str(restarts)]
    return subprocess.run(
        [*command, "-m", "--", "recmtl", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
    )


STOPPED = """
import os, signal
from torch import nn
from recmtl.layers import MLP

class Stopping(nn.Module):
    \"\"\"Stops its own process in the middle of training, as a spot machine would.\"\"\"
    def __init__(self, features):
        super().__init__()
        self.layer, self.steps = nn.Linear(features, 1), 0

    def forward(self, view):
        self.steps += self.training
        if self.steps == 17 and os.environ.get("RANK", "") == os.environ.get("STOP"):
            os.kill(os.getpid(), signal.SIGTERM)
        return self.layer(view)
"""


def test_a_run_resumes_with_another_number_of_processes(
    options: list[str], tmp_path: Path, warm_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one of two was asked, both do; three go on, and end where one that was not stopped ends."""
    (tmp_path / "towers.py").write_text(STOPPED)
    options = [*options, "--model.towers", '{"ctr": {"class_path": "towers.Stopping"}}']
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    folder = tmp_path / "stopped"
    stopped = torchrun(warm_python, 2, *options, "--run", str(folder), STOP="1", **path)
    assert stopped.returncode == 1
    assert stopped.stderr.count("recmtl: stopped by SIGTERM after step 24, with a checkpoint") == 1
    go_on = f"torchrun --nproc-per-node 2 -m -- recmtl train --run {folder} --resume --trust towers"
    assert f"resume it with `{go_on}`" in stopped.stderr
    assert "Traceback" not in stopped.stderr.partition("torch/distributed/elastic")[0]
    assert [*RunFolder(folder).steps()][-1] == 24
    resumed = torchrun(warm_python, 3, "train", "--run", str(folder), "--resume", "--trust", "towers", **path)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("training rows/s") == 1
    monkeypatch.syspath_prepend(tmp_path)
    assert main([*options, "--run", str(tmp_path / "whole")]) == 0
    found, expected = outcome(folder), outcome(tmp_path / "whole")
    for name, value in expected[0].items():
        assert found[0][name].allclose(value, atol=1e-4), name
    assert found[1] == pytest.approx(expected[1], abs=1e-3)


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """The best weights, without a balancer's names, and the AUC of each task."""
    weights = read_checkpoint(RunFolder(folder).checkpoint("best"))["model"]
    tasks = json.loads((folder / "metrics.json").read_text())["test"]
    return weights, {name: metrics["auc"] for name, metrics in tasks.items()}


KILLED = """
import os, signal
from pathlib import Path
from recmtl import Callback
from recmtl.runs.table_parts import FileSystemWriter

class Killed(Callback):
    \"\"\"Kills the first process once, after its first checkpoint, when the next is half written.\"\"\"
    def on_checkpoint(self, context):
        marker = Path(os.environ["MARKER"])
        if not marker.exists():
            marker.touch()
            FileSystemWriter.finish = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_with_spread_tables_outlives_a_killed_process(
    csv: Path, tmp_path: Path, warm_python: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchrun starts it again, and it ends as one process with whole tables does, by which its folder can be used."""
    (tmp_path / "killer.py").write_text(KILLED)
    (tmp_path / "large.yaml").write_text(LARGE_CARD)
    rows = [*("--data.train", str(csv / "train.csv"), "--data.valid", str(csv / "valid.csv"))]
    options = ["train", "--data.card", str(tmp_path / "large.yaml"), *rows, "--data.cache", str(tmp_path / "cache")]
    options += ["--model", "SharedBottom", "--model.layers", "[16,8]", "--model.tower_layers", "[8]"]
    options += ["--balancer", "PCGrad", "--trainer.epochs", "2", "--trainer.optimization.batch_size", "200"]
    options += ["--trainer.run.tensorboard", "false"]
    folder, one = tmp_path / "killed", tmp_path / "one"
    killed = ["--trainer.callbacks", "[killer.Killed]", "--trust", "killer", "--trainer.run.checkpoint_every", "8"]
    killed += ["--trainer.shard_tables", "true"]
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "MARKER": str(tmp_path / "mark")}
    found = torchrun(warm_python, 2, *options, *killed, "--run", str(folder), "--resume", restarts=1, **path)
    assert found.returncode == 0, found.stderr
    assert (tmp_path / "mark").exists()
    assert found.stdout.count("training rows/s") == 1
    assert not list(folder.rglob(".*.partial"))
    assert (folder / "checkpoints/best/tables/__1_0.distcp").exists()
    assert main([*options, "--trainer.shard_tables", "false", "--run", str(one)]) == 0
    models = [recmtl.load_run(run).model.state_dict() for run in (folder, one)]
    for name, value in models[1].items():
        assert models[0][name].allclose(value, atol=1e-5), name
    logs = [[record["valid"] for record in RunFolder(run).records() if "valid" in record] for run in (folder, one)]
    assert [record["ctr"]["auc"] for record in logs[0]] == pytest.approx([r["ctr"]["auc"] for r in logs[1]], abs=1e-3)
    test = str(csv / "test.csv")
    predictions, measured = [], []
    for run in (folder, one):
        capsys.readouterr()
        assert main(["evaluate", str(run), "--rows", test, "--json"]) == 0
        measured.append(capsys.readouterr().out)
        assert main(["predict", str(run), "--rows", test, "--out", str(tmp_path / f"{run.name}.csv")]) == 0
        assert main(["export", str(run), "--out", str(tmp_path / f"{run.name}-exported")]) == 0
        predictions += [pd.read_csv(tmp_path / f"{run.name}.csv"), recmtl.Scorer(tmp_path / f"{run.name}-exported")]
    pd.testing.assert_frame_equal(predictions[0], predictions[2], atol=1e-5)
    assert main(["report", str(folder), str(one), "--out", str(tmp_path / "report.html")]) == 0
    check_commands_of_two(folder, csv, predictions[0], measured[0], tmp_path, capsys)
    more = ["--continue", str(folder), "--data.train", test, "--run", str(tmp_path / "more"), "--trainer.epochs", "1"]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARKER", path["MARKER"])
    assert main(["train", *more, "--trust", "killer"]) == 0


SCALED = ["--method", "temperature", "--task", "ctr"]


def check_commands_of_two(
    run: Path,
    csv: Path,
    predicted: pd.DataFrame,
    measured: str,
    place: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two processes, each with its part of the tables, write and print what one does, and calibrate alike."""
    printed = together(2, place / "two", commands, run, csv, place / "two.csv")
    assert printed[0]["predict"] == f"{len(predicted):,} predictions in {place / 'two.csv'}\n"
    assert [*printed[1].values()] == [""] * 3
    pd.testing.assert_frame_equal(pd.read_csv(place / "two.csv"), predicted, atol=1e-6)
    found, expected = json.loads(printed[0]["evaluate"]), json.loads(measured)
    assert found.keys() == expected.keys()
    for task, metrics in expected.items():
        assert found[task]["auc"] == pytest.approx(metrics["auc"], abs=1e-4)
        assert found[task]["intervals"].keys() == metrics["intervals"].keys()
    calibrated = [run.joinpath("calibration.json").read_bytes(), printed[0]["calibrate"]]
    capsys.readouterr()
    assert main(["calibrate", str(run), "--rows", str(csv / "train.csv"), *SCALED]) == 0
    assert [run.joinpath("calibration.json").read_bytes(), capsys.readouterr().out] == calibrated


def prepared_by_one(processes: ProcessGroup, csv: Path, cache: Path) -> None:
    """One prepares the rows, for longer than the messages of the others may take, which open what it has written."""
    processes.all_gather_object(None)
    impatient, work = ProcessGroup(dist.new_group(timeout=timedelta(seconds=3))), Counter[str]()

    def progress(what: str, rows: int) -> None:
        time.sleep(4 * (not work))
        work[what] += rows

    options = DataOptions("aliexpress", str(csv / "train.csv"), cache=cache)
    data = open_shared_data(partial(open_data, options, progress), impatient)
    assert bool(work) == processes.first
    assert data.folder is not None
    assert data.folder.parent == cache
    assert len({*processes.all_gather_object(data.fingerprint)}) == 1


def commands(processes: ProcessGroup, run: Path, csv: Path, out: Path) -> dict[str, str]:
    """What each process prints."""
    prepared_by_one(processes, csv, out.with_suffix(".cache"))
    os.environ |= {"RANK": str(processes.rank), "WORLD_SIZE": str(processes.size)}
    options = {"predict": ["--out", str(out)], "evaluate": ["--json"], "calibrate": SCALED}
    printed = {}
    for command, given in options.items():
        rows = str(csv / ("train.csv" if command == "calibrate" else "test.csv"))
        with redirect_stdout(StringIO()) as text:
            assert main([command, str(run), "--rows", rows, *given]) == 0
        printed[command] = text.getvalue()
    return printed


BROKEN = """
import os
from torch import nn

class Broken(nn.Linear):
    def __init__(self, features):
        super().__init__(features, 1)

    def forward(self, view):
        if os.environ["RANK"] == "1" and self.training:
            raise ArithmeticError("this tower is broken")
        return super().forward(view)
"""


def test_a_process_that_fails_ends_all_with_its_traceback(
    options: list[str], tmp_path: Path, warm_python: Path
) -> None:
    (tmp_path / "towers.py").write_text(BROKEN)
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    towers = ("--model.towers", '{"ctr": {"class_path": "towers.Broken"}}')
    failed = torchrun(warm_python, 2, *options, *towers, "--run", str(tmp_path / "run"), PYTHONPATH=path)
    assert failed.returncode == 1
    assert "ArithmeticError: this tower is broken" in failed.stderr
    assert failed.stderr.count("raise ArithmeticError") == 1


@pytest.mark.parametrize("command", ["compare", "prepare", "demo", "evaluate --predictions"])
def test_other_commands_are_one_process(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main([*command.split(), *["rows.csv", "--card", "aliexpress"] * command.startswith("evaluate")]) == 2
    assert f"`recmtl {command}` is one process: start it without torchrun" in capsys.readouterr().err
