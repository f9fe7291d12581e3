"""`recmtl compare` with real runs."""

import json
from pathlib import Path

import pytest

import recmtl
from recmtl.cli.main import main

BAD = "{class_path: MetaBalance, init_args: {relax_factor: 3}}"


@pytest.fixture
def arguments(csv: Path, tmp_path: Path, warm_jobs: None) -> list[str]:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"data: {{card: aliexpress, train: {csv}/train.csv, test: {csv}/test.csv}}\n"
        "model: {class_path: SharedBottom, init_args: {layers: [4]}}\n"
        "balancer: {class_path: PCGrad, init_args: {reduction: sum}}\n"
        "trainer: {epochs: 2, run: {tensorboard: false}}\n"
    )
    return ["compare", "--config", str(recipe), "--trainer.epochs", "1", "--out", str(tmp_path / "out")]


@pytest.mark.slow
def test_runs_are_trained_once_and_a_failed_one_does_not_stop_the_other(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["--models", "SharedBottom", "--balancers", "Sum", BAD, "--seeds", "1", "--jobs", "2"]
    assert main([*arguments, *grid]) == 1
    said = "`relax_factor` must be in [0, 1], got 3"
    assert f"Failed: SharedBottom with MetaBalance, seed 0: {said}" in capsys.readouterr().out
    comparison = recmtl.Comparison.open(tmp_path / "out")
    finished = comparison.path(comparison.grid[0]) / "metrics.json"
    stamp, result = finished.stat().st_mtime_ns, json.loads(finished.read_text())
    table = comparison.table().set_index("task")
    assert list(table.index) == ["ctr", "cvr", "ctcvr"]
    assert table["mean"]["ctr"] == result["test"]["ctr"]["auc"]
    assert main([*arguments, "--models", "SharedBottom", "--seeds", "1"]) == 0
    assert finished.stat().st_mtime_ns == stamp
    assert "ctr: there is no other variant to compare SharedBottom with Sum with." in capsys.readouterr().out
    again = tmp_path / "again"
    assert main(["train", "--config", str(finished.parent / "recipe.yaml"), "--run", str(again)]) == 0
    repeated = json.loads((again / "metrics.json").read_text())["test"]
    for task, values in result["test"].items():  # here with other threads: the last bits may differ
        assert repeated[task] == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give `--models`, the models to compare"),
        (["--models", "Tree"], "there is no model 'Tree': give one of AITM, "),
        (["--models", "MMOE", "--balancers", "Tree"], "there is no balancer 'Tree': give one of AlignedMTL, "),
        (["--models", "MMOE", "--seeds", "few"], "`--seeds` must be an integer or a list, got 'few'"),
        (["--models", "MMOE", "--jobs", "0"], "`jobs` must be at least 1, got 0"),
        (["--models", "MMOE", "--metric", "f1"], "`metric` must be one of auc, logloss"),
        (["--models", "MMOE", "--data.test", "missing.csv"], "missing.csv"),
        (["--models", "MMOE", "--trainer.run.predictions", "false"], "leave `trainer.run.predictions` true"),
        (["--models", "MMOE", "--learning-rates", "fast"], "fast"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_run(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    assert main([*arguments, *options]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("recmtl: ")]
    assert said in line
    assert not list((tmp_path / "out").rglob("recipe.yaml"))


def test_out_is_required(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments[:-2], "--models", "MMOE"]) == 2
    assert "give `--out`, the folder to write" in capsys.readouterr().err
