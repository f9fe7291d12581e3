"""Progress of a replay: a bar, and a line for each day that is measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from recmtl.evaluate.metrics import metric_title
from recmtl.io.display import Display, decimal
from recmtl.replays.steps import ReplayStep
from recmtl.train.progress import duration


class ReplayBar(Display):
    """A bar on a terminal or in a notebook, and a line for each step that ends, with the time left."""

    def __init__(self, shown: bool = True) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        super().__init__(*columns, shown=shown, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._steps = self._done = self._run = 0
        self._started = self._step_started = time.monotonic()

    def begin(self, steps: int) -> None:
        """Start the bar of steps."""
        self._steps, self._started = steps, time.monotonic()
        self._bar.update(self._task, total=steps)

    def skip(self) -> None:
        """Advance the bar by a step that was finished before."""
        self._done += 1
        self._bar.update(self._task, completed=self._done)

    def start(self, step: ReplayStep) -> None:
        """Show a step that starts."""
        self._step_started = time.monotonic()
        self._bar.update(self._task, description=f"{step.mode} until {step.trained[-1]}")

    def finish(self, step: ReplayStep, record: Mapping[str, Any]) -> None:
        """Advance the bar, and print what was measured."""
        self._done, self._run = self._done + 1, self._run + 1
        self._bar.update(self._task, completed=self._done)
        shown = ", ".join(f"{task} {_measured(found)}" for task, found in record["tasks"].items())
        now = time.monotonic()
        left = (now - self._started) / self._run * (self._steps - self._done)
        self.note(
            f"{self._done} of {self._steps} · {step.mode}, trained until {step.days[1]} · on {step.day}: {shown} · "
            f"{duration(now - self._step_started)}, about {duration(left)} left"
        )


def _measured(found: Mapping[str, Any]) -> str:
    value = "–" if found["value"] is None else decimal(found["value"])
    return f"{metric_title(found['metric'])} {value}"
