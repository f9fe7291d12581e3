"""A training with spread tables outlives its processes: torchrun starts all again when one is killed at any moment."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import Tally
from same import assert_same_run
from subject import EVERY, OPTIONS, data
from test_killed_ranks import PATIENCE, torchrun

from tests.large_card import LARGE_CARD

KILLER = '''
import itertools, json, os, signal, threading
from recmtl import Callback
from recmtl.balance import ProcessGroup
from recmtl.runs.table_parts import FileSystemWriter, TableParts

PLACES = {
    "exchange": (ProcessGroup, "all_to_all"), "write": (FileSystemWriter, "write_data"), "load": (TableParts, "load")
}
ONCE = threading.Lock()

def kill(moment):
    ONCE.acquire()
    with open(os.environ["KILLED"], "a") as file:
        file.write(json.dumps(moment) + "\\n")
    os.kill(os.getpid(), signal.SIGKILL)

class Killed(Callback):
    """In each start, kills the process of a rank in a call of a method, or some seconds after it began."""
    def __init__(self):
        moments, start = json.loads(os.environ["MOMENTS"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        if start == len(moments) or moments[start][0] != int(os.environ["RANK"]):
            return
        _, place, calls, seconds = moments[start]
        owner, name = PLACES[place]
        method, numbers = getattr(owner, name), itertools.count()

        def counted(*arguments, **options):
            if next(numbers) == calls:
                threading.Timer(seconds, kill, [moments[start]]).start() if seconds else kill(moments[start])
            return method(*arguments, **options)

        setattr(owner, name, counted)
'''


def train(python: Path, rows: Path, folder: Path, moments: list[tuple[int, str, int, float]]) -> Path:
    """Train in two processes, of which one is killed in each start as `moments` says; return the run's folder."""
    card, killer, killed = (folder.with_name(name) for name in ("card.yaml", "killer.py", f"{folder.name}.jsonl"))
    card.write_text(LARGE_CARD)
    killer.write_text(KILLER)
    options = ["train", *data(rows), "--data.card", card, *OPTIONS, "--trainer.shard_tables", "true"]
    options += ["--model", "SharedBottom", "--balancer", "PCGrad", "--run", folder, "--resume"]
    options += ["--trainer.callbacks", "[killer.Killed]", "--trust", "killer"]
    path = f"{folder.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    given = {"MOMENTS": json.dumps(moments), "KILLED": str(killed), "PYTHONPATH": path}
    process = torchrun(python, folder.parent / "cache", *options, restarts=len(moments), **given)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    return folder


@pytest.mark.xdist_group("ranks")
@pytest.mark.fault("kill -9 of an owner of rows, under --max-restarts")
def test_owners_of_rows(
    rows: Path, warm_python: Path, tmp_path: Path, random: np.random.Generator, tally: Tally
) -> None:
    """While a second checkpoint is written, while it is loaded, in an exchange of rows, and some time after one."""
    ranks = random.integers(0, 2, 4).tolist()
    places = ["write", "load", "exchange", "exchange"]
    calls = [1, *map(int, random.integers(0, [3, 40, 20]))]
    seconds = [0.0, 0.0, 0.0, random.uniform(0.001, 0.05)]
    moments = [*zip(ranks, places, calls, seconds, strict=True)]
    tally.tried(len(moments))
    found = train(warm_python, rows, tmp_path / "killed", moments)
    killed = (tmp_path / "killed.jsonl").read_text().splitlines()
    assert [tuple(json.loads(line)) for line in killed] == moments
    assert not [*found.rglob(".*.partial")]
    assert_same_run(found, train(warm_python, rows, tmp_path / "whole", []))
    tally.survived(len(moments), EVERY, "steps of training")
