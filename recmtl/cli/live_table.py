"""What a comparison shows while it runs: a live table on a terminal, a line for each run in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from recmtl.comparison.grid import GridRun
from recmtl.train import RunFolder


class LiveTable:
    """Shows each run of a comparison in the row of its model and balancer and the column of its seed.

    Args:
        cells: All runs, also those that are not run again.
        shown: Whether to show anything.
    """

    def __init__(self, cells: Sequence[GridRun], shown: bool = True) -> None:
        self._cells = {(cell.row, cell.seed): cell for cell in cells}
        self._shown: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._console = Console(stderr=True, quiet=not shown, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, get_renderable=self._table, auto_refresh=True, refresh_per_second=2)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def note(self, text: str) -> None:
        """Show what was noticed."""
        self._console.print(f"note: {text}", markup=False)

    def kept(self, cell: GridRun, folder: Path) -> None:
        """Take in that a run was finished before."""
        self._shown[cell.name] = best(folder)

    def started(self, cell: GridRun) -> None:
        """Take in that a run begins."""
        self._started[cell.name] = time.monotonic()

    def ended(self, cell: GridRun, folder: Path, error: str | None) -> None:
        """Take in that a run is at its end, and how it came there."""
        seconds = time.monotonic() - self._started.pop(cell.name)
        self._shown[cell.name] = "failed" if error else best(folder)
        if error or not self._console.is_terminal:
            what = f"failed: {error}" if error else f"{self._shown[cell.name]} on the validation rows"
            where = f"{len(self._shown)} of {len(self._cells)} · {cell.row}, seed {cell.seed}"
            self._console.print(f"{where} · {what} · {seconds:.0f} s", markup=False)

    def _table(self) -> Table:
        rows = list(dict.fromkeys(row for row, _ in self._cells))
        seeds = list(dict.fromkeys(seed for _, seed in self._cells))
        table = Table("run", *(Column(f"seed {seed}", justify="right") for seed in seeds))
        table.caption = f"{len(self._shown)} of {len(self._cells)} runs · the best on the validation rows"
        for row in rows:
            table.add_row(Text(str(row)), *(Text(self._state(self._cells[row, seed])) for seed in seeds))
        return table

    def _state(self, cell: GridRun) -> str:
        if cell.name in self._started:
            return f"{time.monotonic() - self._started[cell.name]:.0f} s …"
        return self._shown.get(cell.name, "·")


def best(folder: Path) -> str:
    """Say what a finished run reached where it was watched."""
    watched = RunFolder(folder).result().get("best", {})
    value = watched.get("value")
    return "finished" if value is None else f"{watched['monitor']} {value:.4f}"
