"""Checkpoints to resume from: when one is due, which are kept, and which is the last intact one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from recmtl.balance import ProcessGroup
from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.errors import RunError
from recmtl.io.files import fsync, new_folder, replaced_folder
from recmtl.runs.checkpoint_file import (
    CHECKPOINT,
    TABLES,
    read_checkpoint,
    replace_checkpoint,
    write_with_tables,
)
from recmtl.runs.folder import BEST, CHECKPOINTS, LOG, STEP, STEP_DIGITS, RunFolder

if TYPE_CHECKING:
    from recmtl.runs.table_parts import TableParts


class Checkpoints:
    """The newest checkpoints of a run, each a folder with the training state and the best weights so far.

    The best weights are a copy, not a link: a link would share their damage.

    Args:
        folder: The run folder; ``None`` in all processes but the first.
        keep: The number of checkpoints kept.
        minutes: Minutes between two checkpoints.
        processes: The processes that all call the same methods; tables that are spread over them are written in parts.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        keep: int = 2,
        minutes: float | None = None,
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self._folder, self._keep, self._minutes, self._processes = folder, keep, minutes, processes
        self._time = time.monotonic()

    @property
    def late(self) -> bool:
        """Whether the minutes between two checkpoints have passed, in the process that writes them."""
        waited = time.monotonic() - self._time
        return self._folder is not None and self._minutes is not None and waited >= 60 * self._minutes

    def save(self, step: int, state: dict[str, Any], tables: Mapping[str, Tensor], best: bool) -> None:
        """Write a checkpoint, with the best weights if there are any yet, and remove the oldest ones.

        Args:
            step: The step.
            state: The state of the training, in the first process.
            tables: The tables that are spread over the processes, and their optimizers' states.
            best: Whether there are best weights.
        """
        folder, processes = self._folder, self._processes if tables else SINGLE_PROCESS
        known = folder is not None and step in folder.steps()  # the checkpoint that this training resumed from
        if processes.broadcast_object(known) or not (folder or tables):
            return
        path = folder.path / CHECKPOINTS / STEP.format(f"{step:0{STEP_DIGITS}}") if folder else None
        with new_folder(path) if path else nullcontext() as new:
            log = {"log": folder.log_size()} if folder else {}
            write_with_tables(new, state | log, tables, processes)
            if best:
                copy_folder(folder.checkpoint(BEST).parent if folder else None, new and new / BEST, processes)
        self._time = time.monotonic()
        if folder:
            prune(folder, self._keep)

    def restore(self, note: Callable[[str], None]) -> dict[str, Any] | None:
        """Return the last intact training state and roll the run folder back to it; ``None`` without checkpoints.

        All processes call it and get the state. Each damaged checkpoint and a damaged log are passed to `note`, in the
        first process; in all of them a `RunError` says that no checkpoint is intact.
        """
        folder, processes = self._folder, self._processes
        readable = self._readable(note)
        while found := processes.in_first(lambda: next(readable, None)):
            path, state, tables = found
            damage = next(filter(None, (parts.damage(processes) for parts in tables)), None)
            if damage is None:
                self._roll_back(path, state, note, processes if tables else SINGLE_PROCESS)
                return state
            if folder:
                note(f"{damage}; an older one is looked for")
        if begun := processes.in_first(lambda: str(folder.path) if folder and folder.steps() else None):
            raise RunError(f"all checkpoints of {begun!r} are damaged: begin a run in another folder")
        return None

    def _readable(self, note: Callable[[str], None]) -> Iterator[tuple[Path, dict[str, Any], list[TableParts]]]:
        """Yield the checkpoints whose files can be read, the newest first, and their tables, which are not read yet."""
        if self._folder is None:
            return
        remove_partial(self._folder.path)
        for path in reversed(self._folder.steps().values()):
            try:
                yield path, *read_intact(path)
            except RunError as error:
                note(f"{error}; an older one is looked for")

    def _roll_back(self, path: Path, state: dict[str, Any], note: Callable[[str], None], shared: ProcessGroup) -> None:
        folder, best = self._folder, path / BEST
        if folder:
            for newer in folder.steps().values():
                if newer > path:
                    shutil.rmtree(newer)
        source, target = (best, folder.checkpoint(BEST).parent) if folder and best.exists() else (None, None)
        with replaced_folder(target) if target else nullcontext() as new:
            copy_folder(source, new, shared)
        if folder and not folder.cut_log(state["log"]):
            done = int(path.name[-STEP_DIGITS:])
            note(f"{folder.path / LOG} is damaged: what it lacks of the steps up to {done} stays lost")


def save_checkpoint(
    folder: RunFolder | None,
    name: str,
    state: dict[str, Any],
    tables: Mapping[str, Tensor] = {},
    processes: ProcessGroup = SINGLE_PROCESS,
) -> None:
    """Write a checkpoint that is no step's, in place of the one before.

    Args:
        folder: The run folder; ``None`` in all processes but the first.
        name: Its name, `BEST` or `OPTIMIZERS`.
        state: The state without tables that are spread over processes.
        tables: Those tables, which all processes write together.
        processes: The processes.
    """
    replace_checkpoint(folder.checkpoint(name).parent if folder else None, state, tables, processes)


def read_intact(path: Path) -> tuple[dict[str, Any], list[TableParts]]:
    """Read the training state in the folder of a checkpoint; check the best weights beside it, too.

    Returns:
        The state, and the tables beside it and beside the best weights, which remain to be checked.
    """
    best = path / BEST / CHECKPOINT
    try:
        state = read_checkpoint(path / CHECKPOINT)
        tables = [state[TABLES]] if TABLES in state else []
        if state["watch"]["best"] is not None:
            weights = read_checkpoint(best, mmap=True)  # whose tables may be whole where those of the state are not
            tables += [weights[TABLES]] if TABLES in weights else []
    except FileNotFoundError as error:
        raise RunError(f"the checkpoint {path} is damaged: there is no {Path(error.filename).name}") from error
    except (KeyError, TypeError) as error:
        raise RunError(f"the checkpoint {path / CHECKPOINT} is damaged: it holds no training state") from error
    return state, tables


def is_intact(path: Path) -> bool:
    """Return whether training can resume from the folder of a checkpoint."""
    try:
        return all(parts.damage() is None for parts in read_intact(path)[1])
    except RunError:
        return False


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


def copy_folder(source: Path | None, target: Path | None, processes: ProcessGroup = SINGLE_PROCESS) -> None:
    """Copy the files of a folder that the first process finds, each process its share of them.

    Args:
        source: The folder, in the first process; ``None`` copies nothing.
        target: The folder to which they are copied, in the first process.
        processes: The processes, which all call it.

    Raises:
        RunError: A process could not copy a file.
    """

    def listed() -> tuple[Path, Path, list[Path]] | None:
        if source is None or target is None:
            return None
        return source, target, sorted(file.relative_to(source) for file in source.rglob("*") if file.is_file())

    found = processes.in_first(listed)  # a disk may show the others a list that is not up to date
    if found is None:
        return
    old, new, files = found
    failure = None
    try:
        for name in files[processes.rank :: processes.size]:
            copy = new / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(old / name, copy)
            fsync(copy)
    except OSError as error:
        who = f" by process {processes.rank} of {processes.size}" if processes.size > 1 else ""
        failure = f"{str(old)!r} cannot be copied to {str(new)!r}{who}: {os.strerror(error.errno or 0)}"
    if failures := list(filter(None, processes.all_gather_object(failure))):
        raise RunError(failures[0])
