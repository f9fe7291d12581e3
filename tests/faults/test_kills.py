"""`kill -9` at any moment: the command resumes and ends with the same result."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Tally
from same import assert_same_comparison, assert_same_dataset, assert_same_run
from subject import EVERY, KILLS, Subject, lost_steps


def survive(subject: Subject, path: Path, random: np.random.Generator, number: int, tally: Tally) -> int:
    """Kill it up to three times, resume it to the end, and return the largest number of steps lost."""
    lost = []
    for again in range(1 + number % 3):
        tally.tried(subject.kill(path, random, number, again))
        lost.append(lost_steps(path))
    assert max(lost) <= EVERY
    job = subject.start(path, again=True)
    assert (job.wait(), job.said.count("Traceback")) == (0, 0), job.said
    return max(lost)


@pytest.mark.fault("kill -9 of train")
@pytest.mark.parametrize("number", range(KILLS))
def test_train(training: Subject, number: int, tmp_path: Path, random: np.random.Generator, tally: Tally) -> None:
    lost = survive(training, tmp_path / "it", random, number, tally)
    assert_same_run(tmp_path / "it", training.whole)
    assert_same_cache(tmp_path / "cache", training.whole.parent / "cache")
    tally.survived(tally.counts["tried"], lost, "steps of training")


@pytest.mark.fault("kill -9 of train --continue")
@pytest.mark.parametrize("number", [0, 2])
def test_continue(continuing: Subject, number: int, tmp_path: Path, random: np.random.Generator, tally: Tally) -> None:
    lost = survive(continuing, tmp_path / "it", random, number, tally)
    assert_same_run(tmp_path / "it", continuing.whole)
    tally.survived(tally.counts["tried"], lost, "steps of training")


def assert_same_cache(found: Path, whole: Path) -> None:
    """Compare caches apart from hidden leftovers of killed processes."""
    (one,), (other,) = ([p for p in cache.iterdir() if not p.name.startswith(".")] for cache in (found, whole))
    assert one.name == other.name
    assert_same_dataset(one, other)


@pytest.mark.fault("kill -9 of prepare")
@pytest.mark.parametrize("number", range(KILLS))
def test_prepare(preparing: Subject, number: int, tmp_path: Path, random: np.random.Generator, tally: Tally) -> None:
    path = tmp_path / "it"
    for again in range(1 + number % 3):
        tally.tried(preparing.kill(path, random, number, again))
        if path.exists():  # whole, then
            assert_same_dataset(path, preparing.whole)
            shutil.rmtree(path)
    assert preparing.start(path).wait() == 0
    assert_same_dataset(path, preparing.whole)
    tally.survived(tally.counts["tried"])


@pytest.mark.fault("kill -9 of compare")
@pytest.mark.parametrize("number", range(KILLS))
def test_compare(comparing: Subject, number: int, tmp_path: Path, random: np.random.Generator, tally: Tally) -> None:
    lost = survive(comparing, tmp_path / "it", random, number, tally)
    assert_same_comparison(tmp_path / "it", comparing.whole)
    tally.survived(tally.counts["tried"], lost, "steps of training")
