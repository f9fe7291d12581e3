"""The checkpoints that a training goes on from: when one is due, which are kept, and which is the last good one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recmtl.errors import RunError
from recmtl.io.files import new_file, new_folder
from recmtl.runs.folder import BEST, CHECKPOINT, CHECKPOINTS, DIGITS, LOG, STEP, RunFolder
from recmtl.runs.serialization import is_sealed, read_checkpoint, write_checkpoint
from recmtl.train.options import RunConfig

BEST_FILE = "best.pt"  # beside the state: the best weights so far, not a link, as that would share their damage

LEAST = {"done": 0, "log": 0, "window": 1}  # of what a state counts


class Checkpoints:
    """Writes a run's checkpoints and finds the last good one.

    Each is a folder that appears whole: the state of the training, and beside it the weights that are the best by then.

    Args:
        folder: The run folder.
        run: Says how often, and how many are kept.
    """

    def __init__(self, folder: RunFolder, run: RunConfig) -> None:
        self._folder, self._run = folder, run
        self._time = time.monotonic()

    @property
    def late(self) -> bool:
        """Whether the minutes have passed since the last one."""
        minutes = self._run.checkpoint_minutes
        return minutes is not None and time.monotonic() - self._time >= 60 * minutes

    def save(self, step: int, state: dict[str, Any], best: bool) -> None:
        """Write a checkpoint, and remove those that are too many.

        Args:
            step: The steps done.
            state: All that decides what comes.
            best: Whether weights are known that are the best so far.

        Raises:
            RunError: The state cannot be held by a checkpoint, or not be written.
        """
        if step in self._folder.steps():  # the one that this training went on from
            return
        with new_folder(self._folder.path / CHECKPOINTS / STEP.format(f"{step:0{DIGITS}}")) as path:
            write_checkpoint(path / CHECKPOINT, state | {"log": self._folder.log_size()})
            if best:
                copy(self._folder.checkpoint(BEST), path / BEST_FILE)
        self._time = time.monotonic()
        prune(self._folder, self._run.keep)

    def restore(self, note: Callable[[str], None]) -> dict[str, Any] | None:
        """Give the state of the last good checkpoint and make the folder what it was by then; ``None`` without any.

        Args:
            note: Told of each newer one that is damaged, and of a log that is.

        Raises:
            RunError: All are damaged.
        """
        folders = self._folder.steps()
        remove_partial(self._folder.path)
        for step, path in reversed(folders.items()):
            try:
                state = read_whole(path)
            except RunError as error:
                note(f"{error}; an older one is looked for")
                continue
            self._clear_after(step, path)
            if not self._folder.cut_log(state["log"]):
                note(f"{self._folder.path / LOG} is damaged: what it lacks of the steps up to {step} stays lost")
            return state
        if folders:
            raise RunError(f"all checkpoints of {str(self._folder.path)!r} are damaged: begin a run in another folder")
        return None

    def _clear_after(self, step: int, path: Path) -> None:
        for later, folder in self._folder.steps().items():
            if later > step:
                shutil.rmtree(folder)
        if (path / BEST_FILE).exists():
            copy(path / BEST_FILE, self._folder.checkpoint(BEST))


def read_whole(path: Path) -> dict[str, Any]:
    """Read the state in the folder of a checkpoint, whose best weights are whole, too.

    Raises:
        RunError: One of the two is damaged or missing.
    """
    try:
        state = read_checkpoint(path / CHECKPOINT)
        if state["watch"]["best"] is not None and not is_sealed(path / BEST_FILE):
            raise RunError(f"the checkpoint {path / BEST_FILE} is damaged: its content is not what its checksum says")
        if any(type(state[name]) is not int or state[name] < least for name, least in LEAST.items()):
            raise TypeError
    except FileNotFoundError as error:
        raise RunError(f"the checkpoint {path} is damaged: there is no {Path(error.filename).name}") from error
    except (KeyError, TypeError) as error:
        raise RunError(f"the checkpoint {path / CHECKPOINT} is damaged: it is not that of a training") from error
    return state


def is_whole(path: Path) -> bool:
    """Whether a training can go on from the folder of a checkpoint."""
    try:
        read_whole(path)
    except RunError:
        return False
    return True


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half written."""
    for leftover in list(folder.rglob(".*.partial")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def prune(folder: RunFolder, keep: int) -> None:
    """Remove all but the newest checkpoints."""
    for path in list(folder.steps().values())[:-keep]:
        shutil.rmtree(path, ignore_errors=True)


def copy(source: Path, path: Path) -> None:
    """Copy a file to one that appears whole."""
    with new_file(path) as file:
        shutil.copyfile(source, file)
