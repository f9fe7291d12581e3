"""A class of one's own that a recipe names is instantiated once by a process for each training."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from recmtl.cli.main import main

OWN = """
import os
from pathlib import Path
from recmtl.callbacks import Callback

class Logger(Callback):
    def __init__(self) -> None:
        with open(os.environ["INSTANCES"], "a") as lines:
            lines.write(f"{os.getpid()}\\n")
"""
MODEL = ["--model.layers=[4]", "--model.tower_layers=[2]", "--trainer.epochs=1", "--trainer.run.threads=1"]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options of rows of three days and of a callback that writes a line for each of its instances."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("INSTANCES", str(tmp_path / "instances.txt"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.delitem(sys.modules, "counting", raising=False)
    Path("counting.py").write_text(OWN)
    for day in (1, 2, 3, 4):
        rows = pd.DataFrame({"user": [*"abcd"] * 20, "x": range(day, 80 + day), "click": [0, 1] * 40})
        file = Path(f"rows/date=2026-01-0{day}/rows.csv") if day < 4 else Path("more/date=2026-01-04/rows.csv")
        file.parent.mkdir(parents=True)
        rows.to_csv(file, index=False)
    Path("recipe.yaml").write_text("trainer: {callbacks: [{class_path: counting.Logger}]}\n")
    return ["--config", "recipe.yaml", "--data.train", "rows", "--data.labels", "[click]"]


FAILING = """
import torch
import recmtl

class Failing:
    def __init__(self, *arguments, **options) -> None:
        {statement}

class Model(Failing, recmtl.SharedBottom): pass
class Weights(Failing, recmtl.Sum): pass
class Descent(Failing, torch.optim.Adam): pass
class Logger(Failing, recmtl.Callback): pass
class Numbers(Failing, recmtl.features.LinearEmbeddings): pass
"""


@pytest.mark.parametrize(
    ("statement", "reason"),
    [('raise ValueError("no rate")', "ValueError: no rate"), ("raise SystemExit(3)", "SystemExit: 3")],
)
@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--model", "Model"),
        ("--balancer", "Weights"),
        ("--trainer.optimization.optimizer", "Descent"),
        ("--model.encoder.numeric", "Numbers"),
        ("--trainer.callbacks", "Logger"),
    ],
)
def test_a_class_that_raises_is_named(
    option: str, name: str, statement: str, reason: str, recipe: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path(f"failing_{name.lower()}.py").write_text(FAILING.format(statement=statement))
    path = f"failing_{name.lower()}.{name}"
    sys.modules.pop(path.partition(".")[0], None)
    found = f"[{path}]" if name == "Logger" else path
    options = [] if option == "--model" else ["--model", "SharedBottom", *MODEL]
    assert main(["train", *recipe[2:], *options, option, found, "--trainer.run.progress", "false"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"recmtl: {path!r} cannot be instantiated: {reason}"


def instances() -> Counter[str]:
    """How often each process has instantiated the callback since the last call."""
    file = Path("instances.txt")
    found = Counter(file.read_text().split()) if file.exists() else Counter[str]()
    file.unlink(missing_ok=True)
    return found


def test_training(recipe: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    said = [*recipe, "--model", "SharedBottom", *MODEL]
    assert main(["train", *said, "--run", "run"]) == 0, capfd.readouterr().err
    assert [*instances().values()] == [1]
    more = ["--data.train", "more", "--run", "next", "--trust", "counting"]
    assert main(["train", "--continue", "run", *more]) == 0, capfd.readouterr().err
    assert [*instances().values()] == [1]


def test_tuning(recipe: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """The command itself, and the process that trains the trial."""
    said = [*recipe, "--model", "SharedBottom", *MODEL, "--trials", "1", "--out", "out"]
    assert main(["tune", *said]) == 0, capfd.readouterr().err
    found = instances()
    assert [*found.values()] == [1] * len(found) != []


def test_comparing(recipe: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """The command itself, and the process that trains the run."""
    said = [*recipe, *MODEL, "--models", "SharedBottom", "--seeds", "1", "--out", "out"]
    assert main(["compare", *said]) == 0, capfd.readouterr().err
    assert [*instances().values()] == [1, 1]


def test_replaying(recipe: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """One for each of the three runs that are trained: of the first day, and of the second warm and anew."""
    assert main(["replay", *recipe, "--model", "SharedBottom", *MODEL, "--out", "out"]) == 0, capfd.readouterr().err
    assert [*instances().values()] == [3]
