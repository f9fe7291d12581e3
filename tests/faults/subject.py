"""A command under test: how it starts, how it resumes, and what it leaves without a fault."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from forker import Forker, Job

from recmtl.train import RunFolder

KILLS = 6  # moments at which a command is killed
EVERY = 6  # steps between two checkpoints
SIZES = ["--model.layers", "[8,4]", "--trainer.epochs", "2", "--trainer.optimization.batch_size", "128"]
LOG = ["--trainer.run.progress", "false", "--trainer.run.log_every", "1", "--trainer.run.checkpoint_every", EVERY]
OPTIONS = [*SIZES, *LOG, "--trainer.run.device", "cpu", "--trainer.stopping.evaluations", "2"]

Command = Callable[[Path], list[object]]  # from what it writes to its arguments


class Subject:
    """A command, and what it leaves without a fault.

    Args:
        forker: The server that runs it.
        place: An empty folder.
        begin: The command.
        resume: The command that resumes after a kill.
    """

    def __init__(self, forker: Forker, place: Path, begin: Command, resume: Command) -> None:
        self._forker, self._begin, self._resume = forker, begin, resume
        self.whole, self._count = place / "whole" / "it", place / "count"
        for path in (place / "first" / "it", self.whole):  # the first run takes longer
            job = self.start(path)
            assert (job.wait(), job.said.count("Traceback")) == (0, 0), job.said
        self.seconds, self.changes = job.seconds, int(self._count.read_text())

    def start(self, path: Path, again: bool = False, change: int | None = None, **faults: object) -> Job:
        """Start or resume it; `change` is the number of the change to files before which it is killed."""
        command = (self._resume if again else self._begin)(path)
        watched = [str(path.parent), change, str(self._count)]
        return self._forker.start(*command, **{"watched": watched, "cache": str(path.parent / "cache"), **faults})

    def kill(self, path: Path, random: np.random.Generator, number: int, again: int, kills: int = KILLS) -> bool:
        """Kill it once, before a change to files or after a time, and return whether it had not ended before.

        Each number up to `kills` has its own part of the time until the end. The share of the work before the kill
        shrinks with each resumption, as less is left to be done.
        """
        share, by_change = 0.9 * (number + random.uniform()) / kills / 2**again, number % 4 < 2
        if by_change:
            return self.start(path, again > 0, int(share * self.changes)).wait() == -9
        job = self.start(path, again > 0)
        job.kill(share * self.seconds)
        return job.wait() == -9


def lost_steps(path: Path) -> int:
    """Return how many steps killed runs had done after their last checkpoint, at most; finished ones: 0."""
    lost = 0
    for log in path.rglob("metrics.jsonl"):
        lines, run = log.read_text().split("\n")[:-1], RunFolder(log.parent)
        if not run.finished:
            lost = max(lost, (json.loads(lines[-1])["step"] if lines else 0) - max(run.steps(), default=0))
    return lost


def data(rows: Path) -> list[object]:
    names = {"train": "train", "valid": "valid", "test": "test"}
    return ["--data.card", "aliexpress", *(o for n, f in names.items() for o in (f"--data.{n}", rows / f"{f}.csv"))]
