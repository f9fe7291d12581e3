"""Checkpoints to resume from: when one is due, which are kept, and which is the last intact one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recmtl.errors import RunError
from recmtl.io.files import new_file, new_folder
from recmtl.runs.checkpoint_file import has_valid_checksum, read_checkpoint, write_checkpoint
from recmtl.runs.folder import BEST, CHECKPOINT, CHECKPOINTS, LOG, STEP, STEP_DIGITS, RunFolder

BEST_FILE = "best.pt"  # a copy of the best weights so far, not a link: a link would share their damage


class Checkpoints:
    """The newest checkpoints of a run, each a folder with the training state and the best weights so far."""

    def __init__(self, folder: RunFolder, keep: int = 2, minutes: float | None = None) -> None:
        self._folder, self._keep, self._minutes = folder, keep, minutes
        self._time = time.monotonic()

    @property
    def late(self) -> bool:
        """Whether the minutes between two checkpoints have passed."""
        return self._minutes is not None and time.monotonic() - self._time >= 60 * self._minutes

    def save(self, step: int, state: dict[str, Any], best: bool) -> None:
        """Write a checkpoint, with the best weights if there are any yet, and remove the oldest ones."""
        if step in self._folder.steps():  # the checkpoint that this training resumed from
            return
        with new_folder(self._folder.path / CHECKPOINTS / STEP.format(f"{step:0{STEP_DIGITS}}")) as path:
            write_checkpoint(path / CHECKPOINT, state | {"log": self._folder.log_size()})
            if best:
                copy_atomically(self._folder.checkpoint(BEST), path / BEST_FILE)
        self._time = time.monotonic()
        prune(self._folder, self._keep)

    def restore(self, note: Callable[[str], None]) -> dict[str, Any] | None:
        """Return the last intact training state and roll the run folder back to it; ``None`` without checkpoints.

        Each damaged checkpoint and a damaged log are passed to `note`; a `RunError` says that no checkpoint is intact.
        """
        folders = self._folder.steps()
        remove_partial(self._folder.path)
        for step, path in reversed(folders.items()):
            try:
                state = read_intact(path)
            except RunError as error:
                note(f"{error}; an older one is looked for")
                continue
            for later, newer in folders.items():
                if later > step:
                    shutil.rmtree(newer)
            if (path / BEST_FILE).exists():
                copy_atomically(path / BEST_FILE, self._folder.checkpoint(BEST))
            if not self._folder.cut_log(state["log"]):
                note(f"{self._folder.path / LOG} is damaged: what it lacks of the steps up to {step} stays lost")
            return state
        if folders:
            raise RunError(f"all checkpoints of {str(self._folder.path)!r} are damaged: begin a run in another folder")
        return None


def read_intact(path: Path) -> dict[str, Any]:
    """Read the training state in the folder of a checkpoint; check the best weights beside it, too."""
    try:
        state = read_checkpoint(path / CHECKPOINT)
        if state["watch"]["best"] is not None and not has_valid_checksum(path / BEST_FILE):
            raise RunError(f"the checkpoint {path / BEST_FILE} is damaged: its content does not match its checksum")
    except FileNotFoundError as error:
        raise RunError(f"the checkpoint {path} is damaged: there is no {Path(error.filename).name}") from error
    except (KeyError, TypeError) as error:
        raise RunError(f"the checkpoint {path / CHECKPOINT} is damaged: it holds no training state") from error
    return state


def is_intact(path: Path) -> bool:
    """Return whether training can resume from the folder of a checkpoint."""
    try:
        read_intact(path)
    except RunError:
        return False
    return True


def remove_partial(folder: Path) -> None:
    """Remove the half-written files and folders of killed processes."""
    for leftover in list(folder.rglob(".*.partial")):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def prune(folder: RunFolder, keep: int) -> None:
    """Remove all checkpoints but the newest `keep`."""
    for path in list(folder.steps().values())[: -keep or None]:
        shutil.rmtree(path, ignore_errors=True)


def copy_atomically(source: Path, path: Path) -> None:
    """Copy a file to a path, where it appears whole or not at all."""
    with new_file(path) as file:
        shutil.copyfile(source, file)
