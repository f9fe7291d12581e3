"""What the command shows on a terminal or in a log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import TextColumn
from rich.table import Column, Table

from recmtl.evaluate import Metrics, table
from recmtl.train.diagnosis import PairSummary
from recmtl.train.progress import Display

FORMATS = {"rows": "{:,.0f}", "positives": "{:,.0f}", "capped": "{:,.0f}"}


class Counter(Display):
    """Counts rows while they are read or written."""

    def __init__(self) -> None:
        super().__init__(TextColumn("{task.description}"), transient=True)
        self._rows: dict[str, int] = {}
        self._task = self._bar.add_task("")

    def __call__(self, what: str, rows: int) -> None:
        """Count rows more of one kind of work."""
        self._rows[what] = self._rows.get(what, 0) + rows
        text = " · ".join(f"{name}: {count:,} rows" for name, count in self._rows.items())
        self._bar.update(self._task, description=text)
        self.passing(text)

    def remark(self, *texts: str) -> None:
        """Show what was noticed in the rows."""
        for text in texts:
            self.note(f"note: {text}")


def print_metrics(
    metrics: Mapping[str, Metrics], title: str, extra: Mapping[str, Mapping[str, Any]] | None = None
) -> None:
    """Print metrics as a table; reasons for what is undefined stand below.

    Args:
        metrics: By task.
        title: What stands above.
        extra: Further columns: ``{column: {task: value}}``, placed after the first metric.
    """
    frame = table(dict(metrics))
    for position, (column, values) in enumerate((extra or {}).items(), start=1):
        frame.insert(position, column, [values.get(str(task)) for task in frame.index])
    reasons = {task: m.reason for task, m in metrics.items() if m.reason}
    frame = frame.drop(columns="reason", errors="ignore")
    shown = Table("task")
    for column in frame.columns:
        shown.add_column(str(column), justify="right")
    for task, row in frame.iterrows():
        shown.add_row(str(task), *(_cell(str(c), v) for c, v in row.items()))
    console = Console(highlight=False, soft_wrap=True)
    console.print(title, markup=False)
    console.print(shown)
    for task, reason in reasons.items():
        console.print(f"{task}: {reason}", markup=False)


def print_diagnosis(summaries: Sequence[PairSummary]) -> None:
    """Print how the tasks' gradients compared, a line for each pair."""
    shown = Table(
        Column("tasks", overflow="fold"),
        *(Column(name, justify="right") for name in ("cosine", "in conflict", "size ratio", "measured")),
    )
    for s in summaries:
        shown.add_row(
            "·".join(s.pair), f"{s.cosine:.3f}", f"{s.conflicts:.0%}", f"{s.size_ratio:.3g}", f"{s.measurements}"
        )
    console = Console(highlight=False, soft_wrap=True)
    console.print("gradients on the shared tensors: mean cosine, how often it is below 0, median ratio of norms")
    console.print(shown)


def _cell(column: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    return FORMATS.get(column, "{:.4f}").format(value)
