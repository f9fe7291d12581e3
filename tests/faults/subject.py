"""A command under fault: how it begins, how it goes on, and what it leaves when nothing happens to it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from forker import Forker, Job

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
        for path in (place / "first" / "it", self.whole):  # the first takes longer
            job = self.start(path)
            assert (job.wait(), job.said.count("Traceback")) == (0, 0), job.said
        self.seconds, self.changes = job.seconds, int(self._count.read_text())

    def start(self, path: Path, again: bool = False, change: int | None = None, **faults: object) -> Job:
        """Start it, or go on; it can be made to die before a change of files."""
        command = (self._go_on if again else self._begin)(path)
        watched = [str(path.parent), change, str(self._count)]
        return self._forker.start(*command, **{"watched": watched, "cache": str(path.parent / "cache"), **faults})

    def kill(self, path: Path, random: np.random.Generator, by_change: bool, again: int) -> bool:
        """Kill it once, before a change of files or after a time; say whether it did not end before.

        Each time that it goes on less is left to be done.
        """
        share = random.uniform(0, 0.9) / 2**again
        if by_change:
            return self.start(path, again > 0, int(share * self.changes)).wait() == -9
        job = self.start(path, again > 0)
        job.kill(share * self.seconds)
        return job.wait() == -9


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
