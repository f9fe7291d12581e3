"""What a training shows while it runs: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from recmtl.evaluate import Metrics

LINE_EVERY = 10.0  # seconds between two plain lines


class Display:
    """A bar on a terminal, plain lines in a log.

    Args:
        columns: What the bar shows.
        shown: Whether to show anything.
        transient: Whether the bar goes away at its end.
    """

    def __init__(self, *columns: ProgressColumn, shown: bool = True, transient: bool = False) -> None:
        self._console = Console(stderr=True, quiet=not shown)
        hidden = not self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=transient, disable=hidden)
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.__exit__(kind, error, trace)

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def passing(self, text: str) -> None:
        """Show a line in a log, unless another came just before; on a terminal the bar shows it."""
        if not self._console.is_terminal and time.monotonic() - self._last_line > LINE_EVERY:
            self._last_line = time.monotonic()
            self.note(text)


class TrainingProgress(Display):
    """Shows epoch, losses, AUC and rows per second.

    Args:
        epochs: How many epochs there are.
        steps: How many steps an epoch has.
        shown: Whether to show anything.
    """

    def __init__(self, epochs: int, steps: int, shown: bool) -> None:
        position = TextColumn("{task.completed}/{task.total}")
        state = TextColumn("{task.fields[state]}")
        super().__init__(
            TextColumn("{task.description}"), BarColumn(), position, TimeRemainingColumn(), state, shown=shown
        )
        self._epochs, self._steps, self._measured = epochs, steps, ""
        self._task = self._bar.add_task("", total=steps, state="")

    def step(self, epoch: int, step: int, losses: Mapping[str, float], rows_per_second: float) -> None:
        """Show a step, both numbers counted from 1."""
        where = f"epoch {epoch}/{self._epochs}"
        state = " ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
        state = f"loss {state} · {rows_per_second:,.0f} rows/s{self._measured}"
        self._bar.update(self._task, description=where, completed=step, state=state)
        self.passing(f"{where} step {step}/{self._steps} · {state}")

    def evaluated(self, epoch: int, step: int, metrics: Mapping[str, Metrics], best: bool) -> None:
        """Show the validation metrics."""
        main = {name: next(iter(m.values.items())) for name, m in metrics.items()}
        shown = [f"{name} {metric} {'–' if v is None else f'{v:.4f}'}" for name, (metric, v) in main.items()]
        self._measured = f" · {' '.join(shown)}"
        end = f"epoch {epoch}/{self._epochs}" + (f" step {step}/{self._steps}" if step < self._steps else "")
        self.note(f"{end} · valid{self._measured[2:]}{' · best' if best else ''}")
