"""The sections of a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from recmtl.data import Description
from recmtl.data.preparation.part_work import Progress
from recmtl.errors import counted
from recmtl.evaluate.history import Curves, diagnosis_curves, loss_curves, metric_curves, weight_curves
from recmtl.evaluate.metrics import metric_title
from recmtl.report import figures
from recmtl.report.elements import Code, Heading, Notes, Part, Picture, Section, Table, Text
from recmtl.report.run_data import describe_run
from recmtl.report.runs import ReportedRun
from recmtl.report.tables import (
    difference_note,
    difference_table,
    metric_notes,
    metric_tables,
    on_same_rows,
)

HOW_TESTED = "Tests are paired by rows: DeLong's of the AUC, and by the bootstrap of other metrics."


def metric_section(runs: Sequence[ReportedRun], frame: pd.DataFrame, differences: pd.DataFrame, draws: int) -> Section:
    """Build the tables of metrics and, for several runs, of their differences."""
    parts: list[Part] = [Text(_how_measured(runs, draws)), *metric_tables(frame, len(runs) > 1)]
    notes = metric_notes(frame)
    if notes:
        parts.append(Notes(notes))
    if len(runs) > 1:
        parts += [Heading("Differences"), *_differences(runs, differences)]
    return Section("metrics", "Metrics", parts)


def _how_measured(runs: Sequence[ReportedRun], draws: int) -> str:
    rows = "; ".join(
        f"{run.name}: {counted(len(next(iter(run.predictions.labels.values()))), f'{run.split} row')}" for run in runs
    )
    groups = sorted({run.fitted.schema.group for run in runs if run.fitted.schema.group})
    clustered = f", clustered by {' or '.join(groups)}" if groups else ""
    others = f"those of other metrics are from {draws:,} bootstrap draws{clustered}" if draws else "others have none"
    return f"Measured on {rows}. Intervals of AUC are DeLong's{clustered}; {others}."


def _differences(runs: Sequence[ReportedRun], frame: pd.DataFrame) -> Iterator[Part]:
    first, *others = runs
    different = [run.name for run in others if not on_same_rows(first, run)]
    if different:
        yield Text(
            f"Not compared with {first.name}, because they were measured on other rows or labels, or with other row "
            f"weights: {', '.join(different)}."
        )
    if len(frame):
        yield Text(f"{HOW_TESTED} {difference_note(frame)}")
        yield difference_table(frame, first.name)
    elif len(different) < len(others):
        yield Text("No main metric could be tested on a task of the same name and kind.")


def learning_section(runs: Sequence[ReportedRun]) -> Section:
    """Draw the training loss of each objective and the main validation metric of each task, a line for each run."""
    parts: list[Part] = []
    for name, curves in _by_curve(runs, loss_curves).items():
        parts.append(figures.steps_picture(f"{name}: training loss", "training loss", curves))
    for name, curves in _by_curve(runs, metric_curves).items():
        task, _, metric = name.rpartition(" ")
        label = f"{metric_title(metric)} on validation rows"
        parts.append(figures.steps_picture(f"{task}: {label}", label, curves))
    return Section("learning", "Learning curves", parts)


def _by_curve(runs: Sequence[ReportedRun], collect: Callable[..., Curves]) -> dict[str, Curves]:
    """Collect the curves of all runs, by curve and then by run."""
    by_curve: dict[str, Curves] = {}
    for run in runs:
        for name, curve in collect(run.records).items():
            by_curve.setdefault(name, {})[run.name] = curve
    return by_curve


def balance_section(runs: Sequence[ReportedRun]) -> Section:
    """Draw the task weights and the norms and cosines of the tasks' gradients, run by run."""
    parts: list[Part] = []
    for run in runs:
        parts += _balance_pictures(run, f" ({run.name})" if len(runs) > 1 else "")
    if not any(diagnosis_curves(run.records, "cosine") for run in runs):
        parts.append(
            Text("Gradients were not measured: train with `--trainer.gradient_stats_every N` to do so every N steps.")
        )
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


@dataclass(frozen=True)
class RunsData:
    """The data of runs that share it."""

    runs: Sequence[ReportedRun]
    description: Description
    missing: str  # why only the fitted schema is described; empty if all is


def describe_runs(runs: Sequence[ReportedRun], progress: Progress) -> list[RunsData]:
    """Describe the data of the runs; runs with the same data share a description."""
    by_data: dict[str, list[ReportedRun]] = {}
    for run in runs:
        by_data.setdefault(run.fitted.fingerprint, []).append(run)
    return [RunsData(group, *describe_run(group[0], progress)) for group in by_data.values()]


def data_section(data: Sequence[RunsData]) -> Section:
    """Show the data of the runs."""
    parts: list[Part] = []
    for described in data:
        if len(data) > 1:
            parts.append(Heading(", ".join(run.name for run in described.runs)))
        parts += _data_parts(described)
    return Section("data", "Data", parts)


def _data_parts(data: RunsData) -> Iterator[Part]:
    description = data.description
    if text := data.runs[0].fitted.schema.description:
        yield Text(text)
    if data.missing:
        yield Text(data.missing)
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
