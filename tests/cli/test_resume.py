"""`recmtl train --resume`, with real processes that are killed or asked to stop."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from recmtl.cli.main import main
from recmtl.runs.checkpoint_file import read_checkpoint
from recmtl.train import RunFolder, Step
from recmtl.train.predictor import Predictor

TIMES = ("seconds", "train_rows_per_second", "peak_memory_bytes")


@pytest.fixture
def arguments(csv: Path) -> list[str]:
    """A training of 4 epochs of 34 steps."""
    data = ["--data.card", "aliexpress", "--data.train", f"{csv}/train.csv", "--data.test", f"{csv}/test.csv"]
    model = ["--model", "MMOE", "--model.layers", "[8,4]", "--model.experts", "2", "--balancer", "PCGrad"]
    run = ["--trainer.epochs", "4", "--trainer.run.progress", "false", "--trainer.run.tensorboard", "false"]
    return ["train", *data, *model, *run, "--trainer.optimization.batch_size", "64", "--trainer.run.device", "cpu"]


def assert_same(found: Path, whole: Path) -> None:
    """Metrics, predictions, weights and log, but for times."""
    results = [json.loads((run / "metrics.json").read_text()) for run in (found, whole)]
    one, other = ({name: value for name, value in result.items() if name not in TIMES} for result in results)
    assert one == other
    logs = [[{**r, "rows_per_second": 0} for r in RunFolder(run).records()] for run in (found, whole)]
    assert logs[0] == logs[1]
    predictions = [pd.read_parquet(run / "predictions/test.parquet") for run in (found, whole)]
    pd.testing.assert_frame_equal(*predictions, check_exact=True)
    states = [read_checkpoint(RunFolder(run).checkpoint("best"))["model"] for run in (found, whole)]
    assert [n for n in states[0] if not torch.equal(states[0][n], states[1][n])] == []
    assert states[0].keys() == states[1].keys()
    for run in (found, whole):
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best", "optimizers"]


@pytest.mark.slow
def test_an_interrupted_run_resumes_to_the_same_result(arguments: list[str], warm_python: Path, tmp_path: Path) -> None:
    """Killed ones are in `tests/faults`."""
    run = tmp_path / "run"
    command = [warm_python, "-m", "recmtl", *arguments, "--run", str(run), "--trainer.run.checkpoint_every", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    while len(RunFolder(run).steps()) < 2 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    left = list(RunFolder(run).steps())
    assert left[-1] < 4 * 34
    assert process.returncode == 128 + signal.SIGTERM
    assert said.endswith(
        f"recmtl: stopped by SIGTERM after step {left[-1]}, with a checkpoint in {run}: resume it with "
        f"`recmtl train --run {run} --resume`\n"
    )
    assert main(["train", "--run", str(run), "--resume"]) == 0
    assert main([*arguments, "--run", str(tmp_path / "whole")]) == 0
    assert_same(run, tmp_path / "whole")


@pytest.fixture
def short(arguments: list[str], tmp_path: Path) -> list[str]:
    """A run of one epoch, whose options are the same each time."""
    options = ["--trainer.epochs", "1", "--trainer.optimization.batch_size", "600", "--run", str(tmp_path / "run")]
    return [*arguments, *options]


@pytest.fixture
def stopped(short: list[str], tmp_path: Path) -> Path:
    """That run after its second step."""
    taken, plain = [], Step.__call__

    def call(self: Step, *rest: object) -> torch.Tensor:
        taken.append(1)
        if len(taken) == 2:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Step, "__call__", call)
        assert main(short) == 143
    return tmp_path / "run"


def test_the_same_command_starts_resumes_and_finishes_a_run(
    short: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*short, "--resume"]) == 0
    assert f"'{tmp_path / 'run'}' holds no run yet: it starts from the beginning" in capsys.readouterr().out
    assert main([*short, "--resume"]) == 0
    assert "holds a finished run: there is nothing to resume" in capsys.readouterr().out
    left = tmp_path / "run/checkpoints/step-0000000004"  # as of a process killed right after it wrote metrics.json
    left.mkdir()
    assert main([*short, "--resume"]) == 0
    assert not left.exists()
    assert main([*short, "--resume", "--trainer.epochs", "2"]) == 2
    assert "was begun with `trainer.epochs` 1, got 2" in capsys.readouterr().err
    assert main(["train", "--run", str(tmp_path / "run"), "--resume"]) == 0


def test_options_may_be_repeated_but_not_changed(
    stopped: Path, short: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = (stopped / "recipe.yaml").read_text()
    for options, said in (
        (["--trainer.epochs", "2"], "was begun with `trainer.epochs` 1, got 2: leave the option out"),
        (["--model.experts", "3"], "was begun with `model.init_args.experts` 2, got 3"),
        (
            ["--balancer", "Sum"],
            "was begun with `balancer.class_path` 'recmtl.PCGrad', got 'recmtl.Sum'",
        ),
        (["--data.train", "b.csv"], "was begun with `data.train`"),
    ):
        capsys.readouterr()
        assert main([*short, *options, "--resume"]) == 2
        assert said in capsys.readouterr().err
    assert main([*short, "--resume", "--trainer.run.checkpoint_every", "1"]) == 0
    assert (stopped / "recipe.yaml").read_text() == recipe
    assert main([*short[:-1], str(tmp_path / "whole")]) == 0
    assert_same(stopped, tmp_path / "whole")


def test_a_damaged_checkpoint_is_named_in_one_line(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = RunFolder(stopped).steps().values()
    os.truncate(folder / "checkpoint.pt", 5000)
    capsys.readouterr()
    assert main(["train", "--run", str(stopped), "--resume"]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "checkpoint" in line]
    assert lines == [
        f"note: the checkpoint {folder}/checkpoint.pt is damaged: its content does not match its checksum; "
        "an older one is looked for",
        f"recmtl: all checkpoints of '{stopped}' are damaged: begin a run in another folder",
    ]


def test_runs_that_cannot_be_resumed(stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume"]) == 2
    assert "give `--run`, the folder of the run to resume" in capsys.readouterr().err
    assert main(["train", "--run", str(tmp_path / "gone"), "--resume"]) == 2
    assert "there are no training rows" in capsys.readouterr().err
    recipe = stopped / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("recmtl.PCGrad", "os.system"))
    assert main(["train", "--run", str(stopped), "--resume"]) == 2
    assert "names 'os.system', which is not trusted" in capsys.readouterr().err
    recipe.write_text("a: [")
    assert main(["train", "--run", str(stopped), "--resume"]) == 2
    assert f"{recipe} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_interrupted_while_it_is_measured_prints_how_to_resume(
    number: signal.Signals,
    status: int,
    short: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = Predictor.expert_usage

    def usage(*arguments: object) -> object:
        signal.raise_signal(number)
        return plain(*arguments)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "expert_usage", usage)
        assert main(short) == status
    signal.signal(signal.SIGINT, before)
    run = tmp_path / "run"
    said = f"after step 4, with a checkpoint in {run}: resume it with `recmtl train --run {run} --resume`"
    assert f"recmtl: stopped by {number.name} {said}" in capsys.readouterr().err
    assert not (run / "metrics.json").exists()
    assert main([*short, "--resume"]) == 0
    assert main([*short[:-1], str(tmp_path / "whole")]) == 0
    assert_same(run, tmp_path / "whole")


def test_another_machine_is_noted(stopped: Path, short: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    recipe = stopped / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(" threads", "00 threads", 1))
    assert main([*short, "--resume"]) == 0
    assert "note: the run was begun with 100 threads, here it is 1 threads: the last bits" in capsys.readouterr().err
