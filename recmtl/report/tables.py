"""The tables of a report: metrics with their intervals, and the differences between runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from recmtl.data.preparation.part_work import Progress
from recmtl.evaluate.intervals import DRAWS, Interval, intervals_of
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.metrics import LOWER_IS_BETTER, main_metric, metric_title, metrics_of
from recmtl.evaluate.scores import Scores
from recmtl.evaluate.significance import holm, main_difference, same_rows
from recmtl.io.display import decimal, signed
from recmtl.report.elements import Table, TableCell, table_cell
from recmtl.report.runs import ReportedRun

MOST_TASKS = 6  # columns of a table
NUMBER_COLUMNS = ("value", "low", "high", "groups", "left_out")
METRIC_COLUMNS = ("run", "task", "kind", "rows", "positives", "mean", "constant", "metric", "reason", *NUMBER_COLUMNS)
DIFFERENCE_COLUMNS = ("task", "metric", "run", "against", "difference", "low", "high", "p", "p_holm")


def metric_frame(
    runs: Sequence[ReportedRun],
    draws: int = DRAWS,
    level: float = 0.95,
    progress: Progress = lambda what, rows: None,
) -> pd.DataFrame:
    """Measure every reported task of the runs, a row for each metric.

    Args:
        runs: The runs.
        draws: The number of bootstrap draws for the intervals of all metrics but the AUC; 0 leaves these out.
        level: The confidence level of the intervals.
        progress: Called with the current activity and the number of rows just measured.

    Returns:
        The columns ``run``, ``task``, ``kind``, ``rows``, ``positives``, ``mean`` (the mean label),
        ``constant`` (the log-loss, or what the kind of task has in its place, of predicting the mean for every row),
        ``metric``, ``reason`` (why it is undefined), ``value``, ``low``, ``high``, ``groups`` and ``left_out`` (the
        groups without metrics).
    """
    rows: list[tuple[Any, ...]] = []
    for run in runs:
        for scores in run.scores.values():
            rows += _metric_rows(run.name, scores, draws, level)
            progress("measure", len(scores))
    numbers = ("positives", "mean", "constant", *NUMBER_COLUMNS)  # floats also where none is known
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS)).astype(dict.fromkeys(numbers, float))


def _metric_rows(run: str, scores: Scores, draws: int, level: float) -> Iterator[tuple[Any, ...]]:
    metrics = metrics_of(scores)
    defined = [name for name, value in metrics.values.items() if value is not None]
    intervals = intervals_of(scores, defined, draws, level)
    has_mean = metrics.rows and not scores.task.has_classes
    mean = float(np.average(scores.labels, weights=scores.weight)) if has_mean else np.nan
    kind = MEASURES[scores.task.kind]
    without = replace(scores, predictions=kind.constant(scores)) if metrics.rows else scores
    constant = metrics_of(without, names=[kind.fallback]).values[kind.fallback]
    if metrics.rows and not scores.soft and not np.ptp(scores.labels):
        constant = 0.0  # what is more is rounding
    task = run, scores.task.name, scores.task.kind, metrics.rows, metrics.positives, mean, constant
    groups = metrics.groups, metrics.groups_left_out
    for name, value in metrics.values.items():
        interval = intervals.get(name)
        ends = (np.nan, np.nan) if interval is None else (interval.low, interval.high)
        reason = metrics.reason if value is None else None
        yield *task, name, reason, value, *ends, *groups


def metric_tables(frame: pd.DataFrame, several: bool) -> list[Table]:
    """Build the tables of the `metric_frame`: metrics are rows (of several runs one for each), tasks are columns."""
    tables = []
    for kind, part in frame.groupby("kind", sort=False):
        tasks = list(part["task"].unique())
        for start in range(0, len(tasks), MOST_TASKS):
            shown = tasks[start : start + MOST_TASKS]
            more = f" ({start + 1} to {start + len(shown)} of {len(tasks)})" if len(tasks) > len(shown) else ""
            title = f"{MEASURES[str(kind)].title}{more}: metrics with 95 % intervals"
            header = ["metric", *(["run"] if several else []), *shown]
            tables.append(Table(title, header, _metric_cells(part, shown, several), ordered=True))
    return tables


def _metric_cells(part: pd.DataFrame, tasks: Sequence[str], several: bool) -> list[list[TableCell]]:
    """Return the rows of a table: each metric, then what runs on the same rows have in common, such as their number."""
    runs = list(part["run"].unique())
    values = {(m["metric"], m["run"], m["task"]): _interval(m) for m in part.to_dict("records")}
    metrics = [*part["metric"].unique()]
    titles = {name: metric_title(name) for name in metrics}
    for m in part.drop_duplicates(["run", "task"]).to_dict("records"):
        mean = {} if pd.isna(m["mean"]) else {"mean label": m["mean"]}
        if not pd.isna(m["positives"]):
            mean = {"positives": m["positives"], "share of positives": m["mean"]}
        fallback = MEASURES[m["kind"]].fallback
        constant = {f"{metric_title(fallback)} of a constant": m["constant"]}
        counts = {**constant, "rows": m["rows"], **mean}
        titles |= {name: name for name in counts}
        values |= {(name, m["run"], m["task"]): value for name, value in counts.items()}
    cells = []
    for name, title in titles.items():
        by_run = {run: [values.get((name, run, task)) for task in tasks] for run in runs}
        by_run = {run: found for run, found in by_run.items() if any(value is not None for value in found)}
        if len(by_run) == len(runs) > 1 and name not in metrics and len({str(found) for found in by_run.values()}) == 1:
            by_run = {"all": by_run[runs[0]]}
        for run, found in by_run.items():
            cells.append(
                [TableCell(title), *([TableCell(run)] if several else []), *(table_cell(v, name) for v in found)]
            )
    return cells


def _interval(row: Mapping[Any, Any]) -> Interval | float:
    value: float = row["value"]
    return value if np.isnan(row["low"]) else Interval(value, row["low"], row["high"])


def metric_notes(frame: pd.DataFrame) -> list[str]:
    """Explain undefined metrics and left-out groups, once for each task of a run."""
    frame = frame.assign(name=frame["task"] if frame["run"].nunique() < 2 else frame["run"] + ", " + frame["task"])
    undefined = frame[frame["reason"].notna()].groupby(["name", "reason"], sort=False)["metric"]
    notes = [
        f"{name}: {', '.join(metric_title(m) for m in metrics)} undefined: {reason}"
        for (name, reason), metrics in undefined
    ]
    left_out = frame[frame["left_out"] > 0].drop_duplicates("name").to_dict("records")
    return notes + [
        f"{row['name']}: {row['left_out']:,.0f} of {row['groups']:,.0f} groups have {MEASURES[row['kind']].left_out} "
        "and are left out of grouped metrics"
        for row in left_out
    ]


def difference_frame(runs: Sequence[ReportedRun], draws: int = DRAWS, level: float = 0.95) -> pd.DataFrame:
    """Compare the main metric of each task with that of the first run, paired by rows; other rows are left out.

    Tasks of the same name that are of another kind, or have other classes, are left out as well.

    Tests are those of `main_difference`: DeLong's of the AUC, and of other metrics by a paired bootstrap.

    Args:
        runs: The runs.
        draws: The number of bootstrap draws; 0 compares the AUC alone.
        level: The confidence level of the intervals.

    Returns:
        The columns ``task``, ``metric``, ``run``, ``against``, ``difference``, ``low``, ``high``, ``p`` and ``p_holm``
        (corrected for the number of comparisons in the table).
    """
    first, *others = runs
    rows = []
    for run in (run for run in others if on_same_rows(first, run)):
        for name in _shared_tasks(first, run):
            metric = main_metric(first.scores[name].task)
            tested = metric == "auc" or draws
            found = main_difference(run.scores[name], first.scores[name], level, draws) if tested else None
            if found:
                rows.append((name, metric, run.name, first.name, found.estimate, found.low, found.high, found.p))
    frame = pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS[:-1]))
    return frame.assign(p_holm=holm(frame["p"].tolist()) if rows else [])


def on_same_rows(a: ReportedRun, b: ReportedRun) -> bool:
    """Return whether two runs were measured on the same rows: equal labels, groups and row weights in the same order.

    Labels are those that both have, at least one; for each task that both have, the same rows must count.
    """
    labels, other = a.predictions.labels, b.predictions.labels
    classes, other_classes = ({c: t.classes for c, t in r.fitted.schema.class_labels.items()} for r in (a, b))
    shared = [c for c in labels if c in other and classes.get(c) == other_classes.get(c)]
    group = a.fitted.schema.group
    return (
        bool(shared)
        and all(np.array_equal(labels[name], other[name], equal_nan=True) for name in shared)
        and group == b.fitted.schema.group
        and (group is None or a.predictions.keys[group].equals(b.predictions.keys[group]))
        and all(same_rows(a.scores[name], b.scores[name]) for name in _shared_tasks(a, b))
    )


def _shared_tasks(a: ReportedRun, b: ReportedRun) -> list[str]:
    """Return the tasks that both runs have, of the same kind and classes."""
    ours, theirs = ({n: (s.task.kind, s.task.classes) for n, s in run.scores.items()} for run in (a, b))
    return [name for name in ours if ours[name] == theirs.get(name)]


def difference_table(frame: pd.DataFrame, against: str) -> Table:
    """Build the table of differences."""
    rows = []
    for d in frame.to_dict("records"):
        difference, low, high = signed(d["difference"], d["low"], d["high"])
        words = [TableCell(text, key=text) for text in (d["task"], metric_title(d["metric"]), d["run"])]
        numbers = [TableCell(difference, f"{low} to {high}", d["difference"], True)]
        rows.append([*words, *numbers, table_cell(d["p"], "p"), table_cell(d["p_holm"], "p")])
    header = ["task", "metric", "run", "difference", "p", "p, Holm"]
    return Table(f"Metric minus that of {against} on the same rows, with 95 % intervals", header, rows)


def difference_note(frame: pd.DataFrame, level: float = 0.95) -> str:
    """Return the significant differences as a sentence."""
    significant = frame[frame["p_holm"] < 1 - level].to_dict("records")
    test = f"at {level:.0%} (Holm, comparisons: {len(frame)})"
    if not significant:
        return f"No difference is significant {test}."
    parts = [
        f"{d['run']} is {'worse' if (d['difference'] > 0) == (d['metric'] in LOWER_IS_BETTER) else 'better'} than "
        f"{d['against']} on {d['task']} by {decimal(abs(d['difference']))} in {metric_title(d['metric'])}"
        for d in significant
    ]
    return (
        f"Significant {test}: {'; '.join(parts)}. This holds for these runs: other seeds may give other results "
        "(`recmtl compare` trains several)."
    )
