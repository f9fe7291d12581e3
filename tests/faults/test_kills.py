"""`kill -9` at any moment: the command resumes and ends with the same result."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Tally
from same import assert_same_comparison, assert_same_dataset, assert_same_run
from subject import EVERY, KILLS, Subject, lost_steps

from recmtl.tuning import Tuning
from recmtl.tuning.study import cut_unfinished_line

TUNE_KILLS = 6  # moments at which a search is killed


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


@pytest.mark.xdist_group("comparing")
@pytest.mark.fault("kill -9 of compare")
@pytest.mark.parametrize("number", range(KILLS))
def test_compare(comparing: Subject, number: int, tmp_path: Path, random: np.random.Generator, tally: Tally) -> None:
    lost = survive(comparing, tmp_path / "it", random, number, tally)
    assert_same_comparison(tmp_path / "it", comparing.whole)
    tally.survived(tally.counts["tried"], lost, "steps of training")


@pytest.mark.xdist_group("tuning")
@pytest.mark.fault("kill -9 of tune")
@pytest.mark.parametrize("number", range(TUNE_KILLS))
def test_tune(tuning: Subject, number: int, tmp_path: Path, random: np.random.Generator, tally: Tally) -> None:
    """Trials that had ended stay, the one that ran is run again, and the study ends as it would have."""
    path = tmp_path / "it"
    for again in range(1 + number % 3):
        tally.tried(tuning.kill(path, random, number, again, TUNE_KILLS))
        ended = ended_seconds(path)
        job = tuning.start(path) if again == number % 3 else None
        assert job is None or (job.wait(), job.said.count("Traceback")) == (0, 0), job.said
        assert ended_seconds(path).items() >= ended.items()
    found, whole = (Tuning(folder) for folder in (path, tuning.whole))
    frames = [tuning.trials.drop(columns="seconds") for tuning in (found, whole)]
    pd.testing.assert_frame_equal(*frames, check_exact=True)
    best = [yaml.safe_load((folder / "best.yaml").read_text()) for folder in (path, tuning.whole)]
    assert best[0] == best[1]
    tally.survived(tally.counts["tried"], 1, "running trial")


def ended_seconds(path: Path) -> dict[int, float]:
    """Return how long each trial took that has ended; a trial that is run again takes another time."""
    if not (path / "study.journal").exists():
        return {}
    cut_unfinished_line(path / "study.journal")
    if not (path / "study.journal").stat().st_size:
        return {}
    return {trial.trial: trial.seconds for trial in Tuning(path).trials.itertuples()}
