"""Progress of a comparison: what it reports while it runs, and a bar that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from recmtl.comparison.grid import GridRun
from recmtl.train.progress import CountingBar


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


class GridBar(CountingBar):
    """A bar on a terminal or in a notebook, and a line for each run that ends."""

    def begin(self, runs: Sequence[GridRun]) -> None:
        """Start the bar of runs."""
        self.count_to(len(runs), "runs")

    def start(self, run: GridRun) -> None:
        """Show the name of the run."""
        self._bar.update(self._task, description=f"{run.variant}, seed {run.seed}")

    def finish(self, end: RunEnd) -> None:
        """Advance the bar, and print the result unless the run was finished in an earlier comparison."""
        self.advance(None if end.seconds is None else end)
