"""Locks on run folders: one process at a time, and a killed process releases its lock."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.train import RunConfig, RunError, RunFolder

HOLD = """
import sys
from recmtl.train import RunFolder
with RunFolder(sys.argv[1]).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_fails_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    for resume in ([], ["--resume"]):
        assert main(["train", "--data.train", "gone.csv", "--run", str(tmp_path), *resume]) == 2
        said = capsys.readouterr().err
        assert said == f"recmtl: another process is at work in '{tmp_path}': wait for it, or give another folder\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert (tmp_path / ".lock").exists()
    with RunFolder(tmp_path).held():
        pass
    assert not tmp_path.exists()  # it was empty


def test_fitting_and_finishing_lock_the_folder(aliexpress: recmtl.PreparedData, tmp_path: Path) -> None:
    other = RunFolder(tmp_path)
    model = recmtl.SharedBottom(aliexpress.schema, layers=[4])
    trainer = recmtl.Trainer(model, epochs=1, run=RunConfig(tmp_path, progress=False, tensorboard=False, device="cpu"))
    said = "another process is at work in"
    with other.held(), other.held():
        with pytest.raises(RunError, match=said):
            trainer.fit(aliexpress.train)
        assert trainer.folder.steps() == {}
    trainer.fit(aliexpress.train)
    with other.held(), pytest.raises(RunError, match=said):
        trainer.finish({"test": aliexpress.test})
    trainer.finish({"test": aliexpress.test})
    assert trainer.folder.finished
    assert not list(tmp_path.rglob(".*"))
