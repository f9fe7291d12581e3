"""Progress of searches: what they report while they run, and a bar that shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from recmtl.io.display import as_written, decimal
from recmtl.train.progress import CountingBar
from recmtl.tuning.study import Outcome

SECTIONS = ("trainer.optimization.optimizer.", "trainer.optimization.", "trainer.", "model.", "balancer.", "baseline.")
SHARED = "trainer.optimization."  # what names of the same ending need not say
DIGITS = 4  # of a value that is shown


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended.

    Args:
        search: The name of its search; empty if there is one alone.
        number: Its number.
        values: The values of its options by name.
        outcome: How it ended.
        monitor: The metric that decides.
    """

    search: str
    number: int
    values: Mapping[str, Any]
    outcome: Outcome
    monitor: str

    def __str__(self) -> str:
        end = self.outcome
        value = "never defined" if end.value is None else decimal(end.value)
        result = f"failed: {end.error}" if end.error else f"{self.monitor} {value}{', pruned' if end.pruned else ''}"
        parts = [self.search, f"trial {self.number}", result, shown_values(self.values), f"{end.seconds:.0f} s"]
        return " · ".join(filter(None, parts))


def shown_values(values: Mapping[str, Any]) -> str:
    """Return the values of options as text, their names without the section of the recipe, if this tells them apart."""
    short = {name: name.removeprefix(next((s for s in SECTIONS if name.startswith(s)), "")) for name in values}
    counts = Counter(short.values())
    names = {name: text if counts[text] == 1 else name.removeprefix(SHARED) for name, text in short.items()}
    return ", ".join(f"{names[name]} {shown_value(value)}" for name, value in values.items())


def shown_value(value: Any) -> str:
    """Return a value in a few digits."""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else as_written(value)


class TuningProgress(Protocol):
    """Observer of searches."""

    def count_rows(self, what: str, rows: int) -> None:
        """Count rows that were just read or written while data is prepared."""

    def warn(self, text: str) -> None:
        """Show a warning."""

    def begin(self, trials: int, ended: int) -> None:
        """Show the number of trials, and of those that have ended already."""

    def finish(self, end: TrialEnd) -> None:
        """Show that a trial ended."""


class TuningBar(CountingBar):
    """A bar on a terminal or in a notebook, and a line for each trial that ends."""

    def begin(self, trials: int, ended: int) -> None:
        """Start the bar of trials."""
        self.count_to(trials, "trials", ended)

    def finish(self, end: TrialEnd) -> None:
        """Advance the bar, and print the trial's result."""
        self.advance(end)
