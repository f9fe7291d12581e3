"""The runs of a comparison on disk and at work: each is a process of its own, and is run to its end once."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from recmtl.cli.live_table import LiveTable
from recmtl.comparison.grid import GridRun
from recmtl.io.files import new_file
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.recipe.recipe import differences, read_recipe
from recmtl.recipe.trust import modules
from recmtl.runs.checkpoints import is_intact
from recmtl.runs.folder import RECIPE
from recmtl.train import RunError, RunFolder

CELLS, OUTPUT, ERROR = "cells", "output.txt", "error.txt"
TRAIN = (sys.executable, "-m", "recmtl", "train")
POLL = 0.05  # seconds
PATIENCE = 10.0  # seconds that a process has to end

State = Literal["finished", "failed", "unfinished"]


def state_of(folder: Path) -> State:
    """Say how far a run came."""
    if RunFolder(folder).finished:
        return "finished"
    return "failed" if (folder / ERROR).is_file() else "unfinished"


def error_of(folder: Path) -> str | None:
    """Give what a failed run said last; ``None`` of any other."""
    return (folder / ERROR).read_text(encoding="utf-8").strip() if state_of(folder) == "failed" else None


def check_finished(cell: GridRun, folder: Path) -> None:
    """Check that a finished run is the one that would be run now.

    Raises:
        RunError: Its recipe is another.
    """
    advice = "give another `--out`, or remove that run"
    try:
        found = from_yaml(read_text(folder / RECIPE))
        difference = next(differences(found, cell.recipe), None)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{folder / RECIPE} cannot be read: {advice}") from error
    if difference:
        key, before, now = difference
        raise RunError(f"{str(folder)!r} was run with `{key}` {before!r}, which is {now!r} now: {advice}")


def can_go_on(cell: GridRun, folder: Path, note: Callable[[str], None]) -> bool:
    """Whether an unfinished run was begun by the recipe of a cell, and has a checkpoint to go on from.

    Args:
        cell: The cell.
        folder: Its run folder.
        note: Told that there are checkpoints, but all are damaged.
    """
    run = RunFolder(folder)
    try:
        if not run.steps() or next(differences(read_recipe(run), cell.recipe), None):
            return False
    except (RunError, AttributeError):
        return False
    if any(map(is_intact, run.steps().values())):
        return True
    note(f"all checkpoints of {str(folder)!r} are damaged: the run is begun anew")
    return False


@dataclass(frozen=True)
class Job:
    """A run at work.

    Args:
        folder: Its run folder.
        process: Its process.
    """

    folder: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, cell: GridRun, folder: Path, lock: int, note: Callable[[str], None]) -> Job:
        """Run a cell in a process that inherits the environment and holds the comparison's lock, too.

        It goes on from the last good checkpoint of a run that was begun by the same recipe.

        Args:
            cell: The run.
            folder: Its run folder.
            lock: The descriptor of the lock.
            note: Told that all checkpoints are damaged: the run is begun anew then.
        """
        command = [*TRAIN, "--run", str(folder)]
        if can_go_on(cell, folder, note):
            (folder / ERROR).unlink(missing_ok=True)
            command += ["--resume", *(f"--trust={name}" for name in modules(cell.recipe))]  # the recipe is the user's
        else:
            shutil.rmtree(folder, ignore_errors=True)
            with new_file(folder / RECIPE) as file:
                text = yaml.safe_dump(dict(cell.recipe), sort_keys=False, allow_unicode=True)
                file.write_text(text, encoding="utf-8")
            command += ["--config", str(folder / RECIPE)]
        with (folder / OUTPUT).open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=(lock,)
            )
        return cls(folder, process)

    def ended(self) -> bool:
        """Say whether the process has ended; what a failed one said last is kept in the run folder."""
        status = self.process.poll()
        if status is not None and not RunFolder(self.folder).finished:
            with new_file(self.folder / ERROR) as file:
                file.write_text(self._reason(status) + "\n", encoding="utf-8")
        return status is not None

    def _reason(self, status: int) -> str:
        if status < 0:
            memory = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
            return f"killed by {signal.Signals(-status).name}{memory}"
        lines = (self.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").split("\n")
        last = next(
            (line for line in reversed(lines) if line.strip()),
            f"ended with status {status} without a word: is the disk full?",
        )
        return last.strip().removeprefix("recmtl: ")

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def run_cells(cells: Sequence[GridRun], folder: Path, jobs: int, lock: int, board: LiveTable) -> None:
    """Run cells, so many at once; one that fails keeps none of the others from running.

    Args:
        cells: What is to run.
        folder: Where the run folders lie.
        jobs: How many at once.
        lock: The descriptor of the comparison's lock.
        board: Is told what happens.
    """
    waiting, running = deque(cells), dict[str, tuple[GridRun, Job]]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.popleft()
                board.started(cell)
                running[cell.name] = (cell, Job.start(cell, folder / cell.name, lock, board.note))
            for name, (cell, attempt) in list(running.items()):
                if attempt.ended():
                    del running[name]
                    board.ended(cell, attempt.folder, error_of(attempt.folder))
            time.sleep(POLL)
    finally:
        for _, attempt in running.values():
            attempt.stop()
