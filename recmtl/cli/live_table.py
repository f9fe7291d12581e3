"""A live table of a comparison's runs on a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from recmtl.comparison.grid import GridRun
from recmtl.comparison.progress import RunEnd


class LiveTable:
    """Table of a comparison: a row for each variant, a column for each seed."""

    def __init__(self) -> None:
        self._runs: dict[str, GridRun] = {}
        self._results: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._rows: dict[str, int] = {}
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, get_renderable=self._render, auto_refresh=True, refresh_per_second=2)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def count_rows(self, what: str, rows: int) -> None:
        """Count rows that were just read or written while data is prepared."""
        self._rows[what] = self._rows.get(what, 0) + rows

    def warn(self, text: str) -> None:
        """Print a warning above the table."""
        self._console.print(f"note: {text}", markup=False)

    def begin(self, runs: Sequence[GridRun]) -> None:
        """Show the table."""
        self._runs = {run.name: run for run in runs}

    def start(self, run: GridRun) -> None:
        """Show the seconds of a run that started."""
        self._started[run.name] = time.monotonic()

    def finish(self, end: RunEnd) -> None:
        """Show the result of a run; print the error of a failed one above the table."""
        self._started.pop(end.run.name, None)
        self._results[end.run.name] = "failed" if end.error else end.result
        if end.error:
            self._console.print(f"{len(self._results)} of {len(self._runs)} · {end}", markup=False)

    def _render(self) -> Table | Text:
        if not self._runs:
            return Text(" · ".join(f"{name}: {count:,} rows" for name, count in self._rows.items()))
        by_variant: dict[object, dict[int, GridRun]] = {}
        for run in self._runs.values():
            by_variant.setdefault(run.variant, {})[run.seed] = run
        seeds = list(dict.fromkeys(run.seed for run in self._runs.values()))
        table = Table("run", *(Column(f"seed {seed}", justify="right") for seed in seeds))
        table.caption = f"{len(self._results)} of {len(self._runs)} runs · best value on the validation rows"
        for variant, runs in by_variant.items():
            table.add_row(Text(str(variant)), *(Text(self._state(runs[seed])) for seed in seeds))
        return table

    def _state(self, run: GridRun) -> str:
        if run.name in self._started:
            return f"{time.monotonic() - self._started[run.name]:.0f} s …"
        return self._results.get(run.name, "·")
