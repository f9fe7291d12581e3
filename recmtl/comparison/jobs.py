"""The runs of a comparison: their state on disk, and their processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from recmtl.comparison.grid import GridRun
from recmtl.comparison.progress import GridProgress, RunEnd
from recmtl.errors import RunError
from recmtl.io.display import decimal
from recmtl.io.files import new_file, remove_partial
from recmtl.io.machine import threads_variable
from recmtl.io.processes import deferred_signals, end_process, killed_by
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.recipe.recipe import differences, read_recipe
from recmtl.recipe.trust import named_modules
from recmtl.runs.checkpoints import is_intact
from recmtl.runs.folder import RECIPE, RunFolder

RUNS_FOLDER, OUTPUT, ERROR = "cells", "output.txt", "error.txt"
JOB = "job.yaml"  # the recipe that the process of a run begins with
TRAIN = (sys.executable, "-m", "recmtl", "train")
FIT = (sys.executable, "-m", "recmtl.comparison.baselines")  # of a baseline
ADVICE = "give another `--out`, or remove that run"
POLL_SECONDS = 0.05
STOP_SECONDS = 10.0  # that a process has to end before it is killed

State = Literal["finished", "failed", "unfinished"]


def state_of(folder: Path) -> State:
    """Return the state of a run."""
    if RunFolder(folder).finished:
        return "finished"
    return "failed" if (folder / ERROR).is_file() else "unfinished"


def error_of(folder: Path) -> str | None:
    """Return the error message of a failed run; ``None`` for any other."""
    return (folder / ERROR).read_text(encoding="utf-8").strip() if state_of(folder) == "failed" else None


def end_of(run: GridRun, folder: Path, seconds: float | None = None) -> RunEnd:
    """Return how a run ended: its best validation value, or its error."""
    best = RunFolder(folder).result().get("best", {})
    value = best.get("value")
    result = "finished" if value is None else f"{best['monitor']} {decimal(value)}"
    return RunEnd(run, seconds, result, error_of(folder))


def check_finished(run: GridRun, folder: Path) -> None:
    """Check that a finished run has the recipe that it would be run with now."""
    for key, before, now in _changes(run, folder):
        raise RunError(f"{str(folder)!r} was run with `{key}` {before!r}, which is {now!r} now: {ADVICE}")


def differs_in(run: GridRun, folder: Path, keys: Sequence[str]) -> bool:
    """Return whether a finished run has another recipe, which differs in the options of these dotted keys alone."""
    changed = [key.replace(".init_args", "").replace(".class_path", "") for key, *_ in _changes(run, folder)]
    within = [
        any(f"{one}.".startswith(f"{two}.") or f"{two}.".startswith(f"{one}.") for two in keys) for one in changed
    ]
    return bool(within) and all(within)


def _changes(run: GridRun, folder: Path) -> list[tuple[str, Any, Any]]:
    """Return the keys in which a finished run's recipe differs from its current one, with both values."""
    try:
        return list(differences(from_yaml(read_text(folder / RECIPE)), run.recipe))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{folder / RECIPE} cannot be read: {ADVICE}") from error


def can_resume(run: GridRun, folder: Path, warn: Callable[[str], None]) -> bool:
    """Return whether an unfinished run has the right recipe and an undamaged checkpoint; warn if all are damaged."""
    found = RunFolder(folder)
    try:
        if not found.steps() or next(differences(read_recipe(found), run.recipe), None):
            return False
    except (RunError, AttributeError):
        return False
    if any(map(is_intact, found.steps().values())):
        return True
    warn(f"all checkpoints of {str(folder)!r} are damaged: the run starts over")
    return False


@dataclass(frozen=True)
class Job:
    """A run that is being trained by a process of its own."""

    run: GridRun
    folder: Path
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)  # seconds of the monotonic clock

    @classmethod
    def start(cls, run: GridRun, folder: Path, lock: tuple[int, ...], jobs: int, warn: Callable[[str], None]) -> Job:
        """Start a process that trains a run, from its last good checkpoint if it has one.

        The process inherits the environment and the comparison's lock, held by the file descriptors `lock`. It takes
        its share of the CPUs among `jobs` processes at once, unless ``OMP_NUM_THREADS`` was set.
        """
        program = FIT if run.variant.is_baseline else TRAIN
        command, environment = [*program, "--run", str(folder)], os.environ | threads_variable(jobs)
        if can_resume(run, folder, warn):
            (folder / ERROR).unlink(missing_ok=True)
            command += [
                "--resume",
                *(f"--trust={name}" for name in named_modules(run.recipe)),
            ]  # the recipe is the user's
        else:
            shutil.rmtree(folder, ignore_errors=True)
            with new_file(folder / JOB) as file:
                text = yaml.safe_dump(dict(run.recipe), sort_keys=False, allow_unicode=True)
                file.write_text(text, encoding="utf-8")
            command += ["--config", str(folder / JOB)]
        with (folder / OUTPUT).open("ab") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=lock, env=environment
            )
        return cls(run, folder, process)

    def ended(self) -> bool:
        """Return whether the process has ended; if it failed, write its error into the run folder."""
        status = self.process.poll()
        if status is not None and not RunFolder(self.folder).finished:
            with new_file(self.folder / ERROR) as file:
                file.write_text(self._reason(status) + "\n", encoding="utf-8")
        return status is not None

    def _reason(self, status: int) -> str:
        killed = killed_by(status)
        if killed:
            return killed
        lines = (self.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").split("\n")
        silent = f"exit status {status} without any output (disk full?)"
        last = next((line for line in reversed(lines) if line.strip()), silent)
        return last.strip().removeprefix("recmtl: ")

    def stopped(self) -> None:
        """Wait for the process, which was asked to end, and remove what it has left half written."""
        end_process(self.process, STOP_SECONDS)
        remove_partial(self.folder)


def run_jobs(runs: Sequence[GridRun], folder: Path, jobs: int, lock: tuple[int, ...], progress: GridProgress) -> None:
    """Train runs, `jobs` at once; a run that fails does not stop the others."""
    waiting, running = deque(runs), list[Job]()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.popleft()
                progress.start(run)
                with deferred_signals():  # a process that is started is among those to be stopped
                    running.append(Job.start(run, folder / run.name, lock, jobs, progress.warn))
            for job in [job for job in running if job.ended()]:
                running.remove(job)
                progress.finish(end_of(job.run, job.folder, time.monotonic() - job.started))
            time.sleep(POLL_SECONDS)
    finally:
        for job in running:
            job.process.terminate()
        for job in running:
            job.stopped()
