"""Progress of a training: a bar on a terminal and in notebooks, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Timer
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from recmtl.errors import counted
from recmtl.evaluate import Metrics
from recmtl.io.display import LINE_SECONDS, Display, decimal


class CountingBar(Display):
    """A bar of things that end one after the other, such as runs, and before it the rows that are prepared."""

    def __init__(self, shown: bool = True) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        super().__init__(*columns, shown=shown, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._rows: dict[str, int] = {}
        self._total = self._ended = 0

    def count_rows(self, what: str, rows: int) -> None:
        """Count rows that were just read or written while data is prepared."""
        self._rows[what] = self._rows.get(what, 0) + rows
        text = f"{what}: {counted(self._rows[what], 'row')}"
        self._bar.update(self._task, description=text)
        self.note_if_due(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.note(f"note: {text}")

    def count_to(self, total: int, what: str, ended: int = 0) -> None:
        """Start the bar, of which some have ended."""
        self._total, self._ended = total, ended
        self._bar.update(self._task, description=what, total=total, completed=ended)

    def advance(self, end: object | None) -> None:
        """Advance the bar, and print how one ended unless that is ``None``."""
        self._ended += 1
        self._bar.update(self._task, completed=self._ended)
        if end is not None:
            self.note(f"{self._ended} of {self._total} · {end}")


class TrainingProgress(Display):
    """Shows epoch, step, losses, validation metrics, rows per second and the time left."""

    def __init__(self, shown: bool) -> None:
        position, state = TextColumn("{task.completed}/{task.total}"), TextColumn("{task.fields[state]}")
        columns = (TextColumn("{task.description}"), BarColumn(), position, TimeRemainingColumn(), state)
        super().__init__(*columns, shown=shown)
        self._epochs = self._steps = self._first = 0
        self._started = time.monotonic()
        self._metrics = ""
        self._task = self._bar.add_task("", total=None, state="")
        self._slow_start: Timer | None = None

    def start(self, epochs: int, steps: int, done: int) -> None:
        """Start the clock of the time left, before an epoch or after some steps that were done before."""
        self._epochs, self._steps, self._first = epochs, steps, done
        self._started = self._last_line = time.monotonic()
        self._bar.reset(self._task, total=steps)
        if not self._has_bar:
            line = f"epoch {done // steps + 1}/{epochs} step {done % steps}/{steps} · the first step takes long"
            self._slow_start = Timer(LINE_SECONDS, self.note, [line])
            self._slow_start.daemon = True
            self._slow_start.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_slow_start()
        super().__exit__(kind, error, trace)

    def due(self, step: int) -> bool:
        """Move the bar to a step of the epoch, and return whether its losses are to be shown by now."""
        self._end_slow_start()
        if self._has_bar:
            self._bar.update(self._task, completed=step)
        return time.monotonic() - self._last_line >= LINE_SECONDS

    def show_step(self, epoch: int, step: int, losses: Mapping[str, float], rows_per_second: float) -> None:
        """Show the losses after a step, in the bar or, every ten seconds, as a line; both numbers are from 1."""
        where = f"epoch {epoch}/{self._epochs}"
        state = " ".join(f"{name} {decimal(loss)}" for name, loss in losses.items())
        state = f"loss {state} · {rows_per_second:,.0f} rows/s{self._metrics}"
        self._bar.update(self._task, description=where, completed=step, state=state)
        self.note_if_due(f"{where} step {step}/{self._steps} · {state} · {self._time_left(epoch, step)}")
        if self._has_bar:
            self._last_line = time.monotonic()

    def show_metrics(self, epoch: int, step: int, metrics: Mapping[str, Metrics], best: bool) -> None:
        """Show the validation metrics after a step."""
        main = {name: next(iter(m.values.items())) for name, m in metrics.items()}
        shown = [f"{name} {metric} {'–' if v is None else decimal(v)}" for name, (metric, v) in main.items()]
        self._metrics = f" · {' '.join(shown)}"
        end = f"epoch {epoch}/{self._epochs}" + (f" step {step}/{self._steps}" if step < self._steps else "")
        self.note(f"{end} · valid{self._metrics[2:]}{' · best' if best else ''}")

    def _time_left(self, epoch: int, step: int) -> str:
        """Return the time that the remaining steps take at the mean speed so far, evaluations included."""
        done = (epoch - 1) * self._steps + step
        seconds = (time.monotonic() - self._started) / max(1, done - self._first)
        return f"at most {duration(seconds * (self._epochs * self._steps - done))} left"

    def _end_slow_start(self) -> None:
        if self._slow_start is not None:
            self._slow_start.cancel()
            self._slow_start = None


def duration(seconds: float) -> str:
    """Write a number of seconds as hours, minutes or seconds."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if seconds >= 60 else f"{seconds:.0f} s"
