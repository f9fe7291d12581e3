"""Signals at any moment of training: it prints how to resume, and resumes to the same result."""

import signal
from pathlib import Path

import numpy as np
import pytest
from conftest import Tally
from same import assert_same_run
from subject import Subject, lost_steps

ASKING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.fault("SIGINT, SIGTERM and SIGHUP while training")
@pytest.mark.parametrize(("part", "twice"), [(0, False), (1, True)], ids=["early and once", "late and twice"])
@pytest.mark.parametrize("number", ASKING, ids=lambda number: number.name)
def test_training(
    part: int, number: int, twice: bool, training: Subject, tmp_path: Path, random: np.random.Generator, tally: Tally
) -> None:
    path = tmp_path / "it"
    job, moment = training.start(path), (0.1 + 0.35 * (part + random.uniform())) * training.seconds
    job.kill(moment, number)
    if twice:
        job.kill(moment + random.uniform(0, 0.05), number)
    status, said = job.wait(), job.said
    assert "Traceback" not in said
    if status:
        tally.tried()
        assert status in (128 + number, -number)  # the second before training has begun
        lost = lost_steps(path)
        if "with a checkpoint in" in said:
            assert (lost, status) == (0, 128 + number)
            assert said.endswith(f"resume it with `recmtl train --run {path} --resume`\n")
        else:
            assert twice or not (path / "checkpoints").exists() or said.endswith("recmtl: interrupted\n")
    job = training.start(path, again=True)
    assert job.wait() == 0, job.said
    assert_same_run(path, training.whole)
    if status:
        tally.survived(lost=lost, unit="steps of training")
