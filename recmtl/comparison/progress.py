"""Progress of a comparison: what it reports while it runs, and a bar that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from recmtl.comparison.grid import GridRun
from recmtl.train.progress import Display


@dataclass(frozen=True)
class RunEnd:
    """How a run of a comparison ended."""

    run: GridRun
    seconds: float | None  # `None` if the run was finished in an earlier comparison
    result: str  # the best value on the validation rows, or "finished" if there is none
    error: str | None = None

    def __str__(self) -> str:
        result = f"failed: {self.error}" if self.error else f"{self.result} on the validation rows"
        return f"{self.run.variant}, seed {self.run.seed} · {result} · {self.seconds or 0:.0f} s"


class GridProgress(Protocol):
    """Observer of a comparison."""

    def count_rows(self, what: str, rows: int) -> None:
        """Count rows that were just read or written while data is prepared."""

    def warn(self, text: str) -> None:
        """Show a warning."""

    def begin(self, runs: Sequence[GridRun]) -> None:
        """Show the runs of the grid, including those that are finished already."""

    def start(self, run: GridRun) -> None:
        """Show that a run started."""

    def finish(self, end: RunEnd) -> None:
        """Show that a run ended."""


class GridBar(Display):
    """A bar on a terminal or in a notebook, and a line for each run that ends."""

    def __init__(self, shown: bool = True) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        super().__init__(*columns, shown=shown, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._rows: dict[str, int] = {}
        self._runs = self._ended = 0

    def count_rows(self, what: str, rows: int) -> None:
        """Count rows that were just read or written while data is prepared."""
        self._rows[what] = self._rows.get(what, 0) + rows
        text = f"{what}: {self._rows[what]:,} rows"
        self._bar.update(self._task, description=text)
        self.note_if_due(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        self.note(f"note: {text}")

    def begin(self, runs: Sequence[GridRun]) -> None:
        """Start the bar of runs."""
        self._runs = len(runs)
        self._bar.update(self._task, description="runs", total=self._runs)

    def start(self, run: GridRun) -> None:
        """Show the name of the run."""
        self._bar.update(self._task, description=f"{run.variant}, seed {run.seed}")

    def finish(self, end: RunEnd) -> None:
        """Advance the bar, and print the result unless the run was finished in an earlier comparison."""
        self._ended += 1
        self._bar.update(self._task, completed=self._ended)
        if end.seconds is not None:
            self.note(f"{self._ended} of {self._runs} · {end}")
