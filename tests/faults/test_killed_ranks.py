"""One of several processes under torchrun is killed or hangs: all end, and resume to the same result."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Tally
from same import assert_same_run
from subject import EVERY, OPTIONS, data, lost_steps

from recmtl.train import RunFolder

PATIENCE = 240  # seconds: a start takes about 10
WAIT = 0.1  # minutes that processes wait for each other


def torchrun(
    python: Path | str, cache: Path, *arguments: object, restarts: int = 0, **variables: str
) -> subprocess.Popen[str]:
    command = [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", str(restarts)]
    command += ["--shutdown-timeout", "3", "-m", "--"]  # seconds that a process that hangs has to end
    return subprocess.Popen(
        [*command, "recmtl", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "RECMTL_CACHE": str(cache)} | variables,
    )


def begin(python: Path | str, rows: Path, folder: Path) -> subprocess.Popen[str]:
    balanced = ["--balancer", "RotoGrad", "--model", "MMOE", "--model.experts", 2, "--model.style.dropout", 0.1]
    options = ["--timeout", WAIT, "--run", folder, "--trainer.epochs", 4]
    return torchrun(python, folder.parent / "cache", "train", *balanced, *data(rows), *OPTIONS, *options)


@pytest.fixture(scope="module")
def whole(warm_python: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    process = begin(warm_python, rows, folder)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    return folder


def workers(process: subprocess.Popen[str]) -> list[int]:
    """Return the child processes in the order of their ranks."""
    return [int(number) for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.xdist_group("ranks")
@pytest.mark.fault("kill -9 or SIGSTOP of one of two processes")
@pytest.mark.parametrize(
    ("number", "rank"),
    [(signal.SIGKILL, 0), (signal.SIGKILL, 1), (signal.SIGSTOP, 1)],
    ids=["SIGKILL of the first", "SIGKILL of the other", "SIGSTOP of the other"],
)
def test_one_of_two(
    number: int,
    rank: int,
    rows: Path,
    whole: Path,
    warm_python: Path,
    tmp_path: Path,
    random: np.random.Generator,
    tally: Tally,
) -> None:
    folder = RunFolder(tmp_path / "run")
    process = begin(sys.executable, rows, folder.path)
    while not folder.steps():
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.3))
    tally.tried()
    os.kill(workers(process)[rank], number)
    _, said = process.communicate(timeout=PATIENCE)  # it does not hang
    assert process.returncode == 1
    if rank == 1:
        assert "recmtl: process 0 of 2: another process has ended, or did not answer in time" in said
    lost = lost_steps(folder.path)
    assert lost <= EVERY
    again = torchrun(warm_python, tmp_path / "cache", "train", "--run", folder.path, "--resume", "--timeout", 10)
    _, said = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    assert_same_run(folder.path, whole)
    tally.survived(lost=lost, unit="steps of training")
