"""The tables of a report: metrics with their intervals, and the differences between runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recmtl.data.preparation.prepare import Progress
from recmtl.evaluate.intervals import DRAWS, Interval, intervals_of
from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.metrics import metrics_of
from recmtl.evaluate.scores import Scores
from recmtl.evaluate.significance import auc_difference, holm, same_rows
from recmtl.report.elements import Table
from recmtl.report.runs import ReportedRun

METRIC_TITLES = {
    "auc": "AUC",
    "pr_auc": "PR-AUC",
    "logloss": "log-loss",
    "ne": "normalised entropy",
    "gauc": "grouped AUC",
    "ndcg@10": "NDCG@10",
    "ece": "calibration error",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
}
NUMBER_COLUMNS = ("value", "low", "high", "groups", "left_out")
METRIC_COLUMNS = ("run", "task", "kind", "rows", "positives", "metric", "reason", *NUMBER_COLUMNS)
DIFFERENCE_COLUMNS = ("task", "run", "against", "difference", "low", "high", "p", "p_holm")


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
        The columns ``run``, ``task``, ``kind``, ``rows``, ``positives``, ``metric``, ``reason`` (why it is undefined),
        ``value``, ``low``, ``high``, ``groups`` and ``left_out`` (the groups with one class alone).
    """
    rows: list[tuple[Any, ...]] = []
    for run in runs:
        for scores in run.scores.values():
            rows += _metric_rows(run.name, scores, draws, level)
            progress("measure", len(scores))
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS)).astype(dict.fromkeys(NUMBER_COLUMNS, float))


def _metric_rows(run: str, scores: Scores, draws: int, level: float) -> Iterator[tuple[Any, ...]]:
    metrics = metrics_of(scores)
    defined = [name for name, value in metrics.values.items() if value is not None]
    intervals = intervals_of(scores, defined, draws, level)
    task = run, scores.task.name, scores.task.kind, metrics.rows, metrics.positives
    groups = metrics.groups, metrics.groups_left_out
    for name, value in metrics.values.items():
        interval = intervals.get(name)
        ends = (np.nan, np.nan) if interval is None else (interval.low, interval.high)
        reason = metrics.reason if value is None else None
        yield *task, name, reason, value, *ends, *groups


def metric_tables(frame: pd.DataFrame, several: bool) -> list[Table]:
    """Build a table from the `metric_frame` for each kind of task, a row for each task and (of several) run."""
    tables = []
    for kind, part in frame.groupby("kind", sort=False):
        rows = []
        for (task, run), metrics in part.groupby(["task", "run"], sort=False):
            first = metrics.iloc[0]
            row = {"task": task} | ({"run": run} if several else {}) | {"rows": first["rows"]}
            row |= {} if pd.isna(first["positives"]) else {"positives": first["positives"]}
            rows.append(
                row | {METRIC_TITLES.get(m["metric"], m["metric"]): _interval(m) for m in metrics.to_dict("records")}
            )
        table = pd.DataFrame(rows)
        order = {name: i for i, name in enumerate(part["task"].unique())}
        table = table.sort_values("task", key=lambda tasks: tasks.map(order), kind="stable")
        tables.append(Table.of(table, f"{MEASURES[str(kind)].title}: metrics with 95 % intervals"))
    return tables


def _interval(row: Mapping[Any, Any]) -> Interval | float:
    value: float = row["value"]
    return value if np.isnan(row["low"]) else Interval(value, row["low"], row["high"])


def metric_notes(frame: pd.DataFrame) -> list[str]:
    """Explain undefined metrics and left-out groups, once for each task of a run."""
    undefined = frame[frame["reason"].notna()].groupby(["run", "task", "reason"], sort=False)["metric"]
    notes = [
        f"{run}, {task}: {', '.join(METRIC_TITLES.get(m, m) for m in names)} undefined: {reason}"
        for (run, task, reason), names in undefined
    ]
    left_out = frame[frame["left_out"] > 0].drop_duplicates(["run", "task"]).to_dict("records")
    return notes + [
        f"{row['run']}, {row['task']}: {row['left_out']:,.0f} of {row['groups']:,.0f} groups have one class alone and "
        "are left out of grouped metrics"
        for row in left_out
    ]


def difference_frame(runs: Sequence[ReportedRun], level: float = 0.95) -> pd.DataFrame:
    """Compare the AUC of each run with that of the first, paired by rows; runs on other rows are left out.

    Args:
        runs: The runs.
        level: The confidence level of the intervals.

    Returns:
        The columns ``task``, ``run``, ``against``, ``difference``, ``low``, ``high``, ``p`` and ``p_holm`` (corrected
        for the number of comparisons in the table).
    """
    first, *others = runs
    rows = []
    for run in (run for run in others if on_same_rows(first, run)):
        for task in (task for task in first.auc_scores if task in run.auc_scores):
            found = auc_difference([run.auc_scores[task]], [first.auc_scores[task]], level)
            if found:
                rows.append((task, run.name, first.name, found.estimate, found.low, found.high, found.p))
    frame = pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS[:-1]))
    return frame.assign(p_holm=holm(frame["p"].tolist()) if rows else [])


def on_same_rows(a: ReportedRun, b: ReportedRun) -> bool:
    """Return whether two runs were measured on the same rows: equal labels, groups and row weights in the same order.

    For each task that both have, the same rows must count.
    """
    labels = a.predictions.labels
    other = b.predictions.labels
    group = a.fitted.schema.group
    return (
        labels.keys() == other.keys()
        and all(np.array_equal(labels[name], other[name], equal_nan=True) for name in labels)
        and group == b.fitted.schema.group
        and (group is None or a.predictions.keys[group].equals(b.predictions.keys[group]))
        and all(same_rows(a.scores[name], b.scores[name]) for name in a.scores if name in b.scores)
    )


def difference_table(frame: pd.DataFrame, against: str) -> Table:
    """Build the table of differences in AUC."""
    table = pd.DataFrame(
        {
            "task": frame["task"],
            "run": frame["run"],
            "AUC difference": [Interval(*ends) for ends in frame[["difference", "low", "high"]].to_numpy().tolist()],
            "p": frame["p"],
            "p, Holm": frame["p_holm"],
        }
    )
    return Table.of(table, f"AUC minus that of {against} on the same rows, with 95 % intervals")


def difference_note(frame: pd.DataFrame, level: float = 0.95) -> str:
    """Return the significant differences as a sentence."""
    significant = frame[frame["p_holm"] < 1 - level].to_dict("records")
    test = f"at {level:.0%} (Holm, comparisons: {len(frame)})"
    if not significant:
        return f"No difference is significant {test}."
    parts = [
        f"{d['run']} is {'better' if d['difference'] > 0 else 'worse'} than {d['against']} on {d['task']} "
        f"by {abs(d['difference']):.4f}"
        for d in significant
    ]
    return (
        f"Significant {test}: {'; '.join(parts)}. This holds for these runs: other seeds may give other results "
        "(`recmtl compare` trains several)."
    )
