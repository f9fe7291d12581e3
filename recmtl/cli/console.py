"""Print tables, notes and row counts on a terminal or into a log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich import filesize
from rich.console import Console, JustifyMethod
from rich.progress import TextColumn
from rich.table import Column, Table
from rich.text import Text

from recmtl.data import Description
from recmtl.data.profiling.description import number_text
from recmtl.errors import counted
from recmtl.io.display import Display, decimal

if TYPE_CHECKING:  # they need torch, which not every command does
    from recmtl.balance import ProcessGroup
    from recmtl.evaluate import Interval, Metrics
    from recmtl.train.gradient_stats import PairSummary

COUNT_FORMAT, SHARE_FORMAT = "{:,.0f}", "{:.2%}"
COLUMN_FORMATS = dict.fromkeys(("rows", "positives", "groups", "groups_left_out", "capped", "vocabulary"), COUNT_FORMAT)
SHARE_COLUMNS = ("missing", "unknown", "unseen", "beyond")  # the beginnings of their names
SMALL_SHARE, SMALL_SHIFT = 0.01, 0.1  # below which a column hardly differs between two splits
MOST_CLASSES = 10  # of a task, in a table
MAX_CATEGORY = 24  # characters of a category that are shown


@contextmanager
def silence_others(processes: ProcessGroup) -> Iterator[None]:
    """Silence all but the first of several processes within a block; their errors are printed outside of it."""
    if processes.first:
        yield
        return
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


class RowCounter(Display):
    """Count of rows while they are read or written: a live line on a terminal, a line now and then in a log."""

    def __init__(self) -> None:
        super().__init__(TextColumn("{task.description}"), transient=True)
        self._rows: dict[str, int] = {}
        self._task = self._bar.add_task("")

    def __call__(self, what: str, rows: int) -> None:
        """Add rows to the count of one kind of work."""
        self._rows[what] = self._rows.get(what, 0) + rows
        text = " · ".join(f"{name}: {counted(count, 'row')}" for name, count in self._rows.items())
        self._bar.update(self._task, description=text)
        self.note_if_due(text)

    def count_to(self, what: str) -> Callable[[int], None]:
        """Return a function that sets the count of one kind of work."""
        return lambda total: self(what, total - self._rows.get(what, 0))

    def print_notes(self, *texts: str) -> None:
        """Print notes on the rows."""
        for text in texts:
            self.note(f"note: {text}")


def print_line(text: str) -> None:
    """Print a line to standard output."""
    sys.stdout.write(text + "\n")


def print_note(text: str) -> None:
    """Print a note to standard error."""
    sys.stderr.write(f"note: {text}\n")


def print_metrics(
    metrics: Mapping[str, Metrics],
    title: str,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    intervals: Mapping[str, Mapping[str, Interval]] | None = None,
) -> None:
    """Print a table of metrics with a column for each task; reasons for undefined metrics follow.

    `extra` rows ``{name: {task: value}}`` are placed after the first metric, intervals beside the value.
    """
    from recmtl.evaluate import table

    frame = table(dict(metrics))
    for position, (column, values) in enumerate((extra or {}).items(), start=1):
        frame.insert(position, column, [values.get(str(task)) for task in frame.index])
    reasons: dict[str, list[str]] = {}
    for task, measured in metrics.items():
        if measured.reason:
            reasons.setdefault(measured.reason, []).append(task)
    frame = frame.drop(columns="reason", errors="ignore")
    rows = []
    for name, found in frame.items():
        beside = [(intervals or {}).get(str(task), {}).get(str(name)) for task in frame.index]
        cells = [
            _cell_text(str(name), value) + _interval_text(ends, value)
            for value, ends in zip(found, beside, strict=True)
        ]
        rows.append([str(name), *cells])
    console = wide_console()
    console.print(title, markup=False)
    console.print(text_table(["", *map(str, frame.index)], rows))
    for reason, tasks in reasons.items():
        console.print(f"{', '.join(tasks)}: {reason}", markup=False)


def print_domains(
    domains: Mapping[str, Mapping[str, Mapping[str, Any]]],
    title: str,
    intervals: Mapping[str, Mapping[str, Interval | None]] | None = None,
) -> None:
    """Print metrics by domain, a line for each task and domain, with the intervals of AUC beside them."""
    names = dict.fromkeys(name for found in domains.values() for metrics in found.values() for name in metrics)
    columns = [name for name in dict.fromkeys(("rows", "positives", *names)) if name in names and name != "reason"]
    rows = []
    for task, found in domains.items():
        for domain, metrics in found.items():
            cells = [_cell_text(name, metrics.get(name)) for name in columns]
            if intervals and "auc" in columns:
                cells[columns.index("auc")] += _interval_text(intervals[task][domain], metrics.get("auc"))
            rows.append([task, domain, *cells])
    console = wide_console()
    console.print(title, markup=False)
    console.print(text_table(["task", "domain", *columns], rows, left=2))


def print_gradient_stats(summaries: Sequence[PairSummary]) -> None:
    """Print the cosine, conflicts and size ratio of the tasks' gradients, a line for each pair."""
    rows = [
        ("·".join(s.pair), f"{s.cosine:.3f}", f"{s.conflicts:.0%}", f"{s.size_ratio:.3g}", str(s.measurements))
        for s in summaries
    ]
    console = wide_console()
    console.print("gradients on the shared tensors: mean cosine, how often it is below 0, median ratio of norms")
    console.print(text_table(["tasks", "cosine", "in conflict", "size ratio", "measured"], rows))


def print_description(description: Description, title: str, brief: bool = False) -> None:
    """Print a description: warnings, a summary, tables unless it is to be brief, and notes."""
    console = wide_console()
    for warning in description.warnings:
        console.print(f"WARNING: {warning}", style="bold red", markup=False)
    rows, *tasks = description.summary
    for line in (f"{title}: {rows}", *tasks):
        console.print(line, markup=False)
    for name, frame in {} if brief else _described(description).items():
        if len(frame):
            console.print(f"{title}: {name}", markup=False)
            console.print(_frame_table(frame))
    for note in description.notes:
        console.print(f"note: {note}", markup=False)


def _described(description: Description) -> dict[str, pd.DataFrame]:
    """Return the tables of a description by title, with the most frequent categories beside their column."""
    columns = description.columns
    if "more" in columns:
        distinct = [f"{'>' * more}{count:,}" for count, more in zip(columns["distinct"], columns["more"], strict=True)]
        top: dict[str, list[str]] = {}
        for row in description.values.itertuples():
            top.setdefault(str(row.column), []).append(f"{str(row.value)[:MAX_CATEGORY]} {row.share:.1%}")
        frequent = [" · ".join(top.get(name, [])) for name in columns["column"]]
        columns = columns.drop(columns="more").assign(**{"distinct": distinct, "most frequent": frequent})
    drift = description.drift
    differs = (drift[["missing", "unseen", "beyond"]] >= SMALL_SHARE).any(axis=1) | (
        drift["shift"].abs() >= SMALL_SHIFT
    )
    left_out = f" ({int((~differs).sum())} columns that hardly differ are left out)" if not differs.all() else ""
    return {
        **_frequent_classes("labels", description.labels),
        **_frequent_classes("labels by file", description.files),
        "columns": columns,
        "numbers": description.numbers,
        f"against the training rows{left_out}": drift[differs],
    }


def _frequent_classes(title: str, labels: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the table of labels with the most frequent classes of each task, by its title."""
    if "class" not in labels:
        return {title: labels}
    keys = [name for name in ("split", "file", "task") if name in labels]
    places = labels.groupby(keys)["positives"].rank(ascending=False, method="first")
    rare = int((places > MOST_CLASSES).sum())
    return {f"{title} ({counted(rare, 'rarer class')} left out)" if rare else title: labels[~(places > MOST_CLASSES)]}


def print_cached(datasets: Sequence[Mapping[str, Any]], title: str) -> None:
    """Print the datasets of a cache: name, rows, size, age, and the files they come from."""
    shown = Table(
        "name", *(Column(name, justify="right") for name in ("rows", "size", "age")), Column("files", overflow="fold")
    )
    for dataset in datasets:
        files = "\n".join(f"{split}: {path}" for split, paths in dataset["files"].items() for path in paths)
        rows, age = f"{sum(dataset['rows'].values()):,}", f"{dataset['days']:.1f} days"
        shown.add_row(dataset["name"], rows, filesize.decimal(dataset["bytes"]), age, Text(files or "(unfinished)"))
    total = filesize.decimal(sum(dataset["bytes"] for dataset in datasets))
    console = wide_console()
    if datasets:
        console.print(shown)
    console.print(f"{counted(len(datasets), 'dataset')}, {total} {title}", markup=False)


def text_table(header: Sequence[str], rows: Iterable[Sequence[str | Text]], left: int = 1) -> Table:
    """Build a table of which the first columns are aligned to the left."""
    shown = Table()
    for i, name in enumerate(header):
        shown.add_column(Text(name), justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return shown


def wide_console() -> Console:
    """Return a console that is 200 columns wide if there is no terminal."""
    console = Console(highlight=False, soft_wrap=True)
    return console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=200)


def _frame_table(frame: pd.DataFrame) -> Table:
    """Return a table of a frame: text to the left, numbers to the right."""
    shown = Table()
    for i, (name, kind) in enumerate(frame.dtypes.items()):
        side: JustifyMethod = "right" if pd.api.types.is_numeric_dtype(kind) else "left"
        shown.add_column(str(name), justify=side, overflow="fold", no_wrap=i == 0)
    for row in frame.itertuples(index=False):
        shown.add_row(
            *(
                Text(_cell_text(str(c), v, partial(number_text, digits=3)))
                for c, v in zip(frame.columns, row, strict=True)
            )
        )
    return shown


def _interval_text(interval: Interval | None, value: float | None) -> str:
    return f" [{decimal(interval.low, value)}, {decimal(interval.high, value)}]" if interval else ""


def _cell_text(column: str, value: Any, plain: Callable[[float], str] = decimal) -> str:
    if pd.isna(value):
        return "–"
    if isinstance(value, str):
        return value
    if column in COLUMN_FORMATS or column.startswith(SHARE_COLUMNS):
        return COLUMN_FORMATS.get(column, SHARE_FORMAT).format(value)
    return plain(value)
