"""`kill -9` at any moment: what was killed goes on, and ends as if nothing had been."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Forker, Job, Tally
from same import assert_same_comparison, assert_same_dataset, assert_same_run

from recmtl.train import RunFolder

EVERY = 6  # steps between two checkpoints
SIZES = ["--model.layers", "[8,4]", "--trainer.epochs", "2", "--trainer.optimization.batch_size", "128"]
LOG = ["--trainer.run.progress", "false", "--trainer.run.log_every", "1", "--trainer.run.checkpoint_every", EVERY]
OPTIONS = [*SIZES, *LOG, "--trainer.run.device", "cpu", "--trainer.stopping.evaluations", "2"]

Command = Callable[[Path], list[object]]  # from what it writes to its arguments


class Subject:
    """A command, and what it leaves when nobody kills it.

    Args:
        forker: Runs it.
        place: An empty folder.
        begin: The command.
        go_on: The command that goes on after a kill.
    """

    def __init__(self, forker: Forker, place: Path, begin: Command, go_on: Command) -> None:
        self._forker, self._begin, self._go_on = forker, begin, go_on
        self.whole, self._count = place / "whole" / "it", place / "count"
        job = self.start(self.whole)
        assert (job.wait(), job.said.count("Traceback")) == (0, 0), job.said
        self.seconds, self.changes = job.seconds, int(self._count.read_text())

    def start(self, path: Path, again: bool = False, change: int | None = None) -> Job:
        """Start it, or go on; it can be made to die before a change of files."""
        command = (self._go_on if again else self._begin)(path)
        watched = [str(path.parent), change, str(self._count)]
        return self._forker.start(*command, watched=watched, cache=path.parent / "cache")

    def kill(self, path: Path, random: np.random.Generator, by_change: bool, again: bool) -> bool:
        """Kill it once, before a change of files or after a time; say whether it did not end before."""
        if by_change:
            return self.start(path, again, int(random.integers(self.changes))).wait() == -9
        job = self.start(path, again)
        job.kill(random.uniform(0, self.seconds))
        return job.wait() == -9

    def survive(self, path: Path, random: np.random.Generator, number: int, tally: Tally) -> None:
        """Kill it once, or twice in a row, and go on to the end."""
        for again in range(1 + number % 2):
            killed = self.kill(path, random, number % 4 < 2, bool(again))
            tally.tried(killed)
            lost = lost_steps(path)
            assert lost <= EVERY
        job = self.start(path, again=True)
        assert (job.wait(), job.said.count("Traceback")) == (0, 0), job.said
        tally.counts["survived"] = tally.counts["tried"]
        tally.survived(0, lost, "steps of training")



def lost_steps(path: Path) -> int:
    """Give how many steps a killed run, or one of several, had taken after its last checkpoint."""
    lost = 0
    for log in path.rglob("metrics.jsonl"):
        lines = log.read_text().split("\n")[:-1]
        steps = RunFolder(log.parent).steps()
        lost = max(lost, (json.loads(lines[-1])["step"] if lines else 0) - max(steps, default=0))
    return lost


def data(rows: Path) -> list[object]:
    names = {"train": "train", "valid": "valid", "test": "test"}
    return ["--data.card", "aliexpress", *(o for n, f in names.items() for o in (f"--data.{n}", rows / f"{f}.csv"))]


@pytest.fixture(scope="session")
def training(forker: Forker, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    options = ["train", "--model", "MMOE", "--model.experts", "2", "--balancer", "PCGrad", *data(rows), *OPTIONS]
    place = tmp_path_factory.mktemp("training")
    return Subject(forker, place, lambda p: [*options, "--run", p], lambda p: [*options, "--run", p, "--resume"])


@pytest.fixture(scope="session")
def preparing(forker: Forker, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    files = ["--train", rows / "train.csv", "--test", rows / "test.csv"]

    def command(path: Path) -> list[object]:
        return ["prepare", "--card", "aliexpress", *files, "--out", path]

    return Subject(forker, tmp_path_factory.mktemp("preparing"), command, command)


@pytest.fixture(scope="session")
def comparing(forker: Forker, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    grid = ["--models", "SharedBottom", "MMOE", "--seeds", "1", "--balancers", "MetaBalance"]

    def command(path: Path) -> list[object]:
        return ["compare", *data(rows), *OPTIONS, *grid, "--out", path]

    return Subject(forker, tmp_path_factory.mktemp("comparing"), command, command)


@pytest.mark.fault("kill -9 of train")
@pytest.mark.parametrize("number", range(16))
def test_train(training: Subject, number: int, tmp_path: Path, random: np.random.Generator, tally: Tally) -> None:
    training.survive(tmp_path / "it", random, number, tally)
    assert_same_run(tmp_path / "it", training.whole)
    assert_same_cache(tmp_path / "cache", training.whole.parent / "cache")


def assert_same_cache(found: Path, whole: Path) -> None:
    """Of what a killed process was preparing there may be leftovers, which nobody takes for a dataset."""
    (one,), (other,) = ([p for p in cache.iterdir() if not p.name.startswith(".")] for cache in (found, whole))
    assert one.name == other.name
    assert_same_dataset(one, other)


@pytest.mark.fault("kill -9 of prepare")
@pytest.mark.parametrize("number", range(16))
def test_prepare(preparing: Subject, number: int, tmp_path: Path, random: np.random.Generator, tally: Tally) -> None:
    path = tmp_path / "it"
    for again in range(1 + number % 2):
        tally.tried(preparing.kill(path, random, number % 4 < 2, bool(again)))
        if path.exists():  # whole, then
            assert_same_dataset(path, preparing.whole)
            shutil.rmtree(path)
    assert preparing.start(path).wait() == 0
    assert_same_dataset(path, preparing.whole)
    tally.counts["survived"] = tally.counts["tried"]


@pytest.mark.fault("kill -9 of compare")
@pytest.mark.parametrize("number", range(16))
def test_compare(comparing: Subject, number: int, tmp_path: Path, random: np.random.Generator, tally: Tally) -> None:
    comparing.survive(tmp_path / "it", random, number, tally)
    assert_same_comparison(tmp_path / "it", comparing.whole)
