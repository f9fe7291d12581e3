"""The sections of a report."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from recmtl.data.preparation.prepare import Progress
from recmtl.evaluate.history import Curves, diagnosis_curves, loss_curves, metric_curves, weight_curves
from recmtl.evaluate.intervals import Interval
from recmtl.evaluate.slices import FeatureValues, slice_table
from recmtl.report import figures
from recmtl.report.elements import Code, Heading, Notes, Part, Picture, Section, Table, Text
from recmtl.report.run_data import PredictedRows, describe_run
from recmtl.report.runs import ReportedRun
from recmtl.report.tables import (
    METRIC_TITLES,
    difference_frame,
    difference_note,
    difference_table,
    metric_frame,
    metric_notes,
    metric_tables,
    on_same_rows,
)

MOST_SLICE_FIGURES = 24  # each takes 0.1 s and 25 kB
MANY_SLICES = (
    "tables of slices, those whose intervals of AUC lie farthest apart. The tables below hold all; ask for fewer "
    "slices to see others drawn."
)


def metric_section(runs: Sequence[ReportedRun], draws: int, progress: Progress) -> Section:
    """Build the tables of metrics and, for several runs, of their differences in AUC."""
    frame = metric_frame(runs, draws, progress=progress)
    parts: list[Part] = [Text(_how_measured(runs, draws)), *metric_tables(frame, len(runs) > 1)]
    notes = metric_notes(frame)
    if notes:
        parts.append(Notes(notes))
    if len(runs) > 1:
        parts += [Heading("Differences"), *_differences(runs)]
    return Section("metrics", "Metrics", parts)


def _how_measured(runs: Sequence[ReportedRun], draws: int) -> str:
    rows = "; ".join(
        f"{run.name}: {len(next(iter(run.predictions.labels.values()))):,} {run.split} rows" for run in runs
    )
    groups = sorted({run.fitted.schema.group for run in runs if run.fitted.schema.group})
    clustered = f", clustered by {' or '.join(groups)}" if groups else ""
    others = f"those of other metrics are from {draws:,} bootstrap draws{clustered}" if draws else "others have none"
    return f"Measured on {rows}. Intervals of AUC are DeLong's{clustered}; {others}."


def _differences(runs: Sequence[ReportedRun]) -> Iterator[Part]:
    first, *others = runs
    different = [run.name for run in others if not on_same_rows(first, run)]
    if different:
        yield Text(
            f"Not compared with {first.name}, because they were measured on other rows or with other row weights: "
            f"{', '.join(different)}."
        )
    frame = difference_frame(runs)
    if len(frame):
        yield Text(difference_note(frame))
        yield difference_table(frame, first.name)


def learning_section(runs: Sequence[ReportedRun]) -> Section:
    """Draw the training loss of each objective and the main validation metric of each task, a line for each run."""
    parts: list[Part] = []
    for name, curves in _by_curve(runs, loss_curves).items():
        parts.append(figures.steps_picture(f"{name}: training loss", "training loss", curves))
    for name, curves in _by_curve(runs, metric_curves).items():
        task, _, metric = name.rpartition(" ")
        label = f"{METRIC_TITLES.get(metric, metric)} on validation rows"
        parts.append(figures.steps_picture(f"{task}: {label}", label, curves))
    return Section("learning", "Learning curves", parts)


def _by_curve(runs: Sequence[ReportedRun], collect: Callable[..., Curves]) -> dict[str, Curves]:
    """Collect the curves of all runs, by curve and then by run."""
    by_curve: dict[str, Curves] = {}
    for run in runs:
        for name, curve in collect(run.records).items():
            by_curve.setdefault(name, {})[run.name] = curve
    return by_curve


def curve_section(runs: Sequence[ReportedRun]) -> Section:
    """Draw ROC curve, precision-recall curve and reliability diagram of each task, a line for each run."""
    parts: list[Part] = []
    for task in dict.fromkeys(task for run in runs for task in run.auc_scores):
        scores = {run.name: run.auc_scores[task] for run in runs if task in run.auc_scores}
        parts += [Heading(task), figures.roc_picture(task, scores), figures.precision_recall_picture(task, scores)]
        parts.append(figures.reliability_picture(task, scores))
    return Section("curves", "ROC, precision and reliability", parts)


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
    """Build the AUC by the values of features, lowest first; if there are many, figures of those that differ most."""
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
    return Table.of(frame, f"{task}: AUC by {name}, lowest first, with 95 % intervals; undefined with one class alone")


def balance_section(runs: Sequence[ReportedRun]) -> Section:
    """Draw the task weights and the norms and cosines of the tasks' gradients, run by run."""
    parts: list[Part] = []
    for run in runs:
        parts += _balance_pictures(run, f" ({run.name})" if len(runs) > 1 else "")
    if not any(diagnosis_curves(run.records, "cosine") for run in runs):
        parts.append(Text("Gradients were not measured: `--trainer.gradient_stats_every N` does so every N steps."))
    return Section("balance", "Task weights and gradients", parts)


def _balance_pictures(run: ReportedRun, suffix: str) -> Iterator[Picture]:
    norms, cosines = (diagnosis_curves(run.records, what) for what in ("gradient_norm", "cosine"))
    weights = weight_curves(run.records)
    if weights:
        yield figures.steps_picture(f"Task weights{suffix}", "task weight", weights, logarithmic=True)
    if norms:
        yield figures.steps_picture(f"Gradient norms{suffix}", "gradient norm", norms, logarithmic=True)
    if cosines:
        yield figures.cosine_picture(f"Cosines of the tasks' gradients{suffix}", run.records, cosines)


def expert_section(runs: Sequence[ReportedRun]) -> Section:
    """Draw the expert usage of each run that has gates."""
    titles = {run.name: f"Expert usage ({run.name})" if len(runs) > 1 else "Expert usage" for run in runs}
    parts = [figures.expert_picture(titles[run.name], run.usage) for run in runs if run.usage]
    return Section("experts", "Experts", parts)


def data_section(runs: Sequence[ReportedRun], progress: Progress) -> Section:
    """Describe the data of the runs; runs with the same data share a description."""
    parts: list[Part] = []
    by_data: dict[str, list[ReportedRun]] = {}
    for run in runs:
        by_data.setdefault(run.fitted.fingerprint, []).append(run)
    for group in by_data.values():
        if len(by_data) > 1:
            parts.append(Heading(", ".join(run.name for run in group)))
        parts += _data_parts(group[0], progress)
    return Section("data", "Data", parts)


def _data_parts(run: ReportedRun, progress: Progress) -> Iterator[Part]:
    description, missing = describe_run(run, progress)
    if run.fitted.schema.description:
        yield Text(run.fitted.schema.description)
    if missing:
        yield Text(missing)
    yield from (Text(warning, warning=True) for warning in description.warnings)
    captions = {
        "labels": "Labels: rows, positives and mean",
        "columns": "Columns",
        "numbers": "Encoded numbers, and the mean and deviation of the raw ones",
        "drift": "Drift against the training rows",
    }
    for name, caption in captions.items():
        frame = getattr(description, name)
        if len(frame):
            yield Table.of(frame, caption)
    if description.notes:
        yield Notes(description.notes)


def recipe_section(runs: Sequence[ReportedRun]) -> Section:
    """Show the recipe of each run."""
    return Section("recipe", "Recipe", [Code(f"Recipe of {run.name}", run.recipe) for run in runs])
