"""The slices of a report: the AUC of each task by the values of features."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from recmtl.data.preparation.part_work import Progress
from recmtl.evaluate.intervals import Interval
from recmtl.evaluate.slices import FEW_POSITIVES, FeatureValues, slice_table
from recmtl.report import figures
from recmtl.report.elements import Heading, Part, Section, Table, Text
from recmtl.report.run_data import PredictedRows
from recmtl.report.runs import ReportedRun
from recmtl.report.tables import on_same_rows

MOST_SLICE_FIGURES = 24  # each takes 0.1 s and 25 kB
MOST_RUNS = 2  # whose tables stand beside those of other tasks
MANY_SLICES = (
    "tables of slices, those whose intervals of AUC lie farthest apart. The tables below hold all; ask for fewer "
    "slices to see others drawn."
)


@dataclass(frozen=True)
class TaskSlices:
    """The AUC of one task by the values of a feature, a table for each run."""

    task: str
    feature: str
    tables: Mapping[str, pd.DataFrame]

    @property
    def title(self) -> str:
        """The title of its figure."""
        return f"{self.task}: AUC by {self.feature}"

    @property
    def gap(self) -> float:
        """How far intervals lie apart: the largest lower end less the smallest upper end, the most of all runs."""
        return max(_end(table["low"], max) - _end(table["high"], min) for table in self.tables.values())


def _end(ends: pd.Series, choose: Callable[[list[float]], float]) -> float:
    """Choose among the ends of intervals that are known; without any there is no gap."""
    known = ends.dropna().tolist()
    return choose(known) if known else (-1.0 if choose is max else 1.0)


def slice_section(runs: Sequence[ReportedRun], names: Sequence[str], rows: str | None, progress: Progress) -> Section:
    """Build the AUC by the values of features, tasks beside each other; of many, figures of those that differ most."""
    groups = [(group, PredictedRows(group[0], rows, progress)) for group in _group_by_rows(runs)]
    found: list[tuple[str, list[TaskSlices]]] = []
    for name, (group, features) in itertools.product(names, groups):
        title = f"By {name}" if len(group) == len(runs) else f"By {name}: {', '.join(run.name for run in group)}"
        found.append((title, _task_slices(group, name, features.values(name))))
    every = [slices for _, measured in found for slices in measured]
    drawn = sorted(every, key=lambda slices: slices.gap, reverse=True)[:MOST_SLICE_FIGURES]
    shown = {id(slices) for slices in drawn}
    parts: list[Part] = []
    if len(every) > len(drawn):
        parts.append(Text(f"Drawn are the {len(drawn)} of {len(every)} {MANY_SLICES}"))
    for title, measured in found:
        pictures = [figures.slice_picture(s.title, s.tables) for s in measured if id(s) in shown]
        parts += [Heading(title), *pictures, *(_slice_table(s.tables, s.task, s.feature) for s in measured)]
    return Section("slices", "Slices", parts)


def _task_slices(runs: Sequence[ReportedRun], name: str, values: FeatureValues) -> list[TaskSlices]:
    """Measure the tasks of runs on the same rows by the values of a feature; leave out tasks without any AUC."""
    by_run = {run.name: slice_table(run.predictions, values) for run in runs}
    measured = []
    for task in dict.fromkeys(task for table in by_run.values() for task in table["task"]):
        of_task = {run: table[table["task"] == task] for run, table in by_run.items()}
        of_task = {run: table for run, table in of_task.items() if table["auc"].notna().any()}
        if of_task:
            measured.append(TaskSlices(task, name, of_task))
    return measured


def _group_by_rows(runs: Sequence[ReportedRun]) -> list[list[ReportedRun]]:
    """Group the runs that were measured on the same rows."""
    groups: list[list[ReportedRun]] = []
    for run in runs:
        group = next((group for group in groups if on_same_rows(group[0], run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def _slice_table(by_run: Mapping[str, pd.DataFrame], task: str, name: str) -> Table:
    """Build the table of the slices of a task, a column of AUCs for each run."""
    first = next(iter(by_run.values())).set_index("value")
    columns = {}
    for run, table in by_run.items():
        defined = table[table["auc"].notna()]
        ends = defined[["auc", "low", "high"]].to_numpy().tolist()
        auc = {value: Interval(*three) for value, three in zip(defined["value"], ends, strict=True)}
        columns[f"AUC, {run}" if len(by_run) > 1 else "AUC"] = [auc.get(value) for value in first.index]
    frame = pd.DataFrame({"value": first.index, **columns, "rows": first["rows"].array})
    frame["positives"] = first["positives"].array
    few = first["few"].tolist()
    caption = f"{task}: AUC by {name} with 95 % intervals, lowest first"
    if any(few):
        caption += f"; grey: fewer than {FEW_POSITIVES} positives or negatives"
    return Table.of(frame, caption, faint=few, beside=len(by_run) <= MOST_RUNS)
