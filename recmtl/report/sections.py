"""The sections of a report."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd

from recmtl.data.preparation.prepare import Progress
from recmtl.evaluate.history import Curves, diagnosis_curves, loss_curves, metric_curves, weight_curves
from recmtl.evaluate.intervals import Interval
from recmtl.evaluate.slices import slice_table
from recmtl.report.elements import Code, Heading, Notes, Part, Picture, Section, Table, Text
from recmtl.report.figures import Album
from recmtl.report.rows import described, values_of
from recmtl.report.runs import ReportedRun
from recmtl.report.tables import (
    NAMES,
    difference_frame,
    difference_sentence,
    difference_table,
    metric_frame,
    metric_tables,
    remarks,
    same_rows,
)


def metric_section(runs: Sequence[ReportedRun], draws: int, progress: Progress) -> Section:
    """Set all metrics in tables, and between several runs the differences in AUC."""
    frame = metric_frame(runs, draws, progress=progress)
    parts: list[Part] = [Text(how_measured(runs, draws)), *metric_tables(frame, len(runs) > 1)]
    said = remarks(frame)
    if said:
        parts.append(Notes(said))
    if len(runs) > 1:
        parts += [Heading("Differences"), *_differences(runs)]
    return Section("metrics", "Metrics", parts)


def how_measured(runs: Sequence[ReportedRun], draws: int) -> str:
    """Say on which rows and how intervals were made."""
    rows = "; ".join(
        f"{run.name}: {len(next(iter(run.predictions.labels.values()))):,} {run.split} rows" for run in runs
    )
    groups = sorted({run.fitted.schema.group for run in runs if run.fitted.schema.group})
    clustered = f", rows of one {' or '.join(groups)} taken together" if groups else ""
    drawn = f"those of the other metrics by a bootstrap of {draws:,} draws{clustered}" if draws else "others have none"
    return f"Measured on {rows}. Intervals of AUC are DeLong's{clustered}; {drawn}."


def _differences(runs: Sequence[ReportedRun]) -> Iterator[Part]:
    others = [run.name for run in runs[1:] if not same_rows(runs[0], run)]
    if others:
        named = f"{runs[0].name}, so not compared with it: {', '.join(others)}"
        yield Text(f"Measured on other rows, or with other row weights, than {named}.")
    frame = difference_frame(runs)
    if len(frame):
        yield Text(difference_sentence(frame))
        yield difference_table(frame, runs[0].name)


def learning_section(runs: Sequence[ReportedRun], album: Album) -> Section:
    """Draw the training loss of each objective and the main validation metric of each task, a line for each run."""
    parts: list[Part] = []
    for name, curves in _by_curve(runs, loss_curves).items():
        parts.append(album.over_steps(f"{name}: training loss", "training loss", curves))
    for name, curves in _by_curve(runs, metric_curves).items():
        task, _, metric = name.rpartition(" ")
        label = f"{NAMES.get(metric, metric)} on validation rows"
        parts.append(album.over_steps(f"{task}: {label}", label, curves))
    return Section("learning", "Learning curves", parts)


def _by_curve(runs: Sequence[ReportedRun], collect: Callable[..., Curves]) -> dict[str, Curves]:
    """Collect the curves of all runs: by the curve's name, then by the run's."""
    found: dict[str, Curves] = {}
    for run in runs:
        for name, curve in collect(run.records).items():
            found.setdefault(name, {})[run.name] = curve
    return found


def curve_section(runs: Sequence[ReportedRun], album: Album) -> Section:
    """Draw ROC, precision-recall and reliability of each task, a line for each run."""
    tasks = dict.fromkeys(task for run in runs for task in run.curved)
    parts: list[Part] = []
    for task in tasks:
        scores = {run.name: run.curved[task] for run in runs if task in run.curved}
        parts += [Heading(task), album.roc(task, scores), album.precision_recall(task, scores)]
        parts.append(album.reliability(task, scores))
    return Section("curves", "ROC, precision and reliability", parts)


def slice_section(
    runs: Sequence[ReportedRun], names: Sequence[str], rows: str | None, album: Album, progress: Progress
) -> Section:
    """Measure the AUC by the values of features, the smallest first."""
    parts: list[Part] = []
    for name, same in itertools.product(names, alike(runs)):
        title = f"By {name}" if len(same) == len(runs) else f"By {name}: {', '.join(run.name for run in same)}"
        values = values_of(same[0], name, rows, progress)
        tables = {run.name: slice_table(run.predictions, values) for run in same}
        pictures, shown = [], []
        for task in dict.fromkeys(task for table in tables.values() for task in table["task"]):
            of_task = {run: table[table["task"] == task] for run, table in tables.items()}
            of_task = {run: table for run, table in of_task.items() if table["auc"].notna().any()}
            if of_task:
                pictures.append(album.slices(f"{task}: AUC by {name}", of_task))
                shown.append(_slice_table(of_task, task, name))
        parts += [Heading(title), *pictures, *shown]
    return Section("slices", "Slices", parts)


def alike(runs: Sequence[ReportedRun]) -> list[list[ReportedRun]]:
    """Put runs together that were measured on the same rows."""
    groups: list[list[ReportedRun]] = []
    for run in runs:
        group = next((group for group in groups if same_rows(group[0], run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def _slice_table(tables: Mapping[str, pd.DataFrame], task: str, name: str) -> Table:
    """Set the slices of a task in a table, the AUC of each run in a column."""
    first = next(iter(tables.values())).set_index("value")
    columns = {}
    for run, table in tables.items():
        defined = table[table["auc"].notna()]
        ends = defined[["auc", "low", "high"]].to_numpy().tolist()
        auc = {value: Interval(*three) for value, three in zip(defined["value"], ends, strict=True)}
        columns[f"AUC, {run}" if len(tables) > 1 else "AUC"] = [auc.get(value) for value in first.index]
    shown = pd.DataFrame({"value": first.index, **columns, "rows": first["rows"].array})
    shown["positives"] = first["positives"].array
    caption = f"{task}: AUC by {name}, the smallest first, with 95 % intervals below; none where one class is missing"
    return Table.of(shown, caption)


def balance_section(runs: Sequence[ReportedRun], album: Album) -> Section:
    """Draw task weights, and the norms and cosines of the tasks' gradients, run by run."""
    parts: list[Part] = []
    for run in runs:
        found = list(_balance(run, album, f" ({run.name})" if len(runs) > 1 else ""))
        parts += found
    if not any(diagnosis_curves(run.records, "cosine") for run in runs):
        parts.append(Text("Gradients were not measured: `--trainer.gradient_stats_every N` does so in one of N steps."))
    return Section("balance", "Task weights and gradients", parts)


def _balance(run: ReportedRun, album: Album, named: str) -> Iterator[Picture]:
    norms, cosines = (diagnosis_curves(run.records, what) for what in ("gradient_norm", "cosine"))
    weights = weight_curves(run.records)
    if weights:
        yield album.over_steps(f"Task weights{named}", "task weight", weights, logarithmic=True)
    if norms:
        yield album.over_steps(f"Gradient norms{named}", "gradient norm", norms, logarithmic=True)
    if cosines:
        yield album.cosines(f"Cosines of the tasks' gradients{named}", run.records, cosines)


def expert_section(runs: Sequence[ReportedRun], album: Album) -> Section:
    """Draw what the gates of each run take of its experts."""
    parts = [
        album.usage(f"Use of experts{f' ({run.name})' if len(runs) > 1 else ''}", run.usage)
        for run in runs
        if run.usage
    ]
    return Section("experts", "Experts", parts)


def data_section(runs: Sequence[ReportedRun], progress: Progress) -> Section:
    """Describe the data of each run, the same data once."""
    parts: list[Part] = []
    seen: dict[str, list[ReportedRun]] = {}
    for run in runs:
        seen.setdefault(run.fitted.fingerprint, []).append(run)
    for same in seen.values():
        if len(seen) > 1:
            parts.append(Heading(", ".join(run.name for run in same)))
        parts += _description(same[0], progress)
    return Section("data", "Data", parts)


def _description(run: ReportedRun, progress: Progress) -> Iterator[Part]:
    description, missing = described(run, progress)
    if run.fitted.schema.description:
        yield Text(run.fitted.schema.description)
    if missing:
        yield Text(missing)
    yield from (Text(warning, warning=True) for warning in description.warnings)
    captions = {
        "labels": "Labels: rows that count, positive ones, and the mean",
        "columns": "Columns",
        "numbers": "Numbers as they are encoded, beside what they were standardised by",
        "drift": "Against the training rows",
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
