"""The steps of a replay: which run is trained for which day, and where its files are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Mode = Literal["warm", "anew", "frozen"]
MODES: tuple[Mode, ...] = get_args(Mode)
RUNS, PREDICTIONS, MEASURED = "runs", "predictions", "measured"  # folders
FIRST = "first"  # the run of the first day, with which each mode begins


@dataclass(frozen=True)
class ReplayStep:
    """A day that is measured in one mode.

    Args:
        mode: How the run is trained: ``warm`` goes on from the run of the day before, ``anew`` trains on all days so
            far, ``frozen`` is the run of the first day.
        trained: The days up to the last one whose rows may be trained on, in order.
        day: The day that is measured, the one after them.
    """

    mode: Mode
    trained: tuple[str, ...]
    day: str

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"{self.mode}-{self.day}"

    @property
    def run(self) -> str:
        """The name of its run, which is that of the first day if there is no other."""
        return FIRST if self.mode == "frozen" or len(self.trained) == 1 else f"{self.mode}-{self.trained[-1]}"

    @property
    def days(self) -> tuple[str, str]:
        """The first and the last day of the rows that its run is trained on."""
        if self.run == FIRST:
            return self.trained[0], self.trained[0]
        return (self.trained[0] if self.mode == "anew" else self.trained[-1]), self.trained[-1]

    @property
    def before(self) -> str | None:
        """The run that its run goes on from; ``None`` if it begins with new weights."""
        if self.mode != "warm" or self.run == FIRST:
            return None
        return ReplayStep("warm", self.trained[:-1], self.trained[-1]).run

    def record(self, folder: Path) -> Path:
        """Return the file of what was measured, in the folder of the replay: without it the step is not finished."""
        return folder / MEASURED / f"{self.name}.json"

    def predictions(self, folder: Path) -> Path:
        """Return the file of the predictions, in the folder of the replay."""
        return folder / PREDICTIONS / f"{self.name}.parquet"


def steps_of(days: Sequence[str], modes: Sequence[Mode]) -> Iterator[ReplayStep]:
    """Yield the steps of a replay, day by day."""
    for place in range(1, len(days)):
        for mode in modes:
            yield ReplayStep(mode, tuple(days[:place]), days[place])
