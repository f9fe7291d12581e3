"""The tables of a report: metrics with their intervals, and the differences between runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from recmtl.data.preparation.prepare import Progress
from recmtl.evaluate import significance as compared
from recmtl.evaluate.intervals import DRAWS, Interval, intervals_of
from recmtl.evaluate.metrics import metrics_of
from recmtl.evaluate.scores import Scores
from recmtl.evaluate.significance import auc_difference, holm
from recmtl.report.elements import Table
from recmtl.report.runs import ReportedRun

NAMES = {
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
NUMBERS = ("value", "low", "high", "groups", "left_out")
METRIC_COLUMNS = ("run", "task", "kind", "rows", "positives", "metric", "reason", *NUMBERS)
DIFFERENCE_COLUMNS = ("task", "run", "against", "difference", "low", "high", "p", "p_holm")


def metric_frame(
    runs: Sequence[ReportedRun],
    draws: int = DRAWS,
    level: float = 0.95,
    progress: Progress = lambda what, rows: None,
) -> pd.DataFrame:
    """Measure every reported task of runs, a row for each metric.

    Args:
        runs: The runs.
        draws: Of the bootstrap, from which the intervals of all metrics but the AUC come; 0 leaves these out.
        level: Of the intervals.
        progress: Called with what is being done and the number of rows just measured.

    Returns:
        The columns ``run``, ``task``, ``kind``, ``rows``, ``positives``, ``metric``, ``reason`` (why it is undefined),
        ``value``, ``low``, ``high``, ``groups`` and ``left_out`` (those of them that have one class alone).
    """
    rows: list[tuple[Any, ...]] = []
    for run in runs:
        for scores in run.scores.values():
            rows += _metrics(run.name, scores, draws, level)
            progress("measure", len(scores))
    return pd.DataFrame(rows, columns=list(METRIC_COLUMNS)).astype(dict.fromkeys(NUMBERS, float))


def _metrics(run: str, scores: Scores, draws: int, level: float) -> Iterator[tuple[Any, ...]]:
    metrics = metrics_of(scores)
    defined = [name for name, value in metrics.values.items() if value is not None]
    intervals = intervals_of(scores, defined, draws, level)
    about = run, scores.task.name, scores.task.kind, metrics.rows, metrics.positives
    groups = metrics.groups, metrics.groups_left_out
    for name, value in metrics.values.items():
        found = intervals.get(name)
        ends = (np.nan, np.nan) if found is None else (found.low, found.high)
        reason = metrics.reason if value is None else None
        yield *about, name, reason, value, *ends, *groups


def metric_tables(frame: pd.DataFrame, several: bool) -> list[Table]:
    """Show metrics, a table for each kind of task; a row is a task of a run.

    Args:
        frame: As `metric_frame` gives it.
        several: Whether there are several runs, which are then named.
    """
    shown = []
    for kind, part in frame.groupby("kind", sort=False):
        rows = []
        for (task, run), metrics in part.groupby(["task", "run"], sort=False):
            first = metrics.iloc[0]
            row = {"task": task} | ({"run": run} if several else {}) | {"rows": first["rows"]}
            row |= {"positives": first["positives"]} if kind == "binary" else {}
            rows.append(row | {NAMES.get(m["metric"], m["metric"]): _interval(m) for m in metrics.to_dict("records")})
        table = pd.DataFrame(rows)
        order = {name: i for i, name in enumerate(part["task"].unique())}
        table = table.sort_values("task", key=lambda tasks: tasks.map(order), kind="stable")
        what = "Tasks with two classes" if kind == "binary" else "Regressions"
        shown.append(Table.of(table, f"{what}: metrics, with 95 % intervals below"))
    return shown


def _interval(row: Mapping[Any, Any]) -> Interval | float:
    value: float = row["value"]
    return value if np.isnan(row["low"]) else Interval(value, row["low"], row["high"])


def remarks(frame: pd.DataFrame) -> list[str]:
    """Say once for each task of a run why metrics are undefined, and which groups do not count."""
    undefined = frame[frame["reason"].notna()].groupby(["run", "task", "reason"], sort=False)["metric"]
    said = [
        f"{run}, {task}: {', '.join(NAMES.get(m, m) for m in names)} undefined, as {reason}"
        for (run, task, reason), names in undefined
    ]
    left_out = frame[frame["left_out"] > 0].drop_duplicates(["run", "task"]).to_dict("records")
    return said + [
        f"{row['run']}, {row['task']}: {row['left_out']:,.0f} of {row['groups']:,.0f} groups have one class alone and "
        "count for no metric within groups"
        for row in left_out
    ]


def difference_frame(runs: Sequence[ReportedRun], level: float = 0.95) -> pd.DataFrame:
    """Compare the AUC of each run with that of the first on the same rows, paired; runs on other rows are left out.

    Args:
        runs: The runs.
        level: Of the intervals.

    Returns:
        The columns ``task``, ``run``, ``against``, ``difference``, ``low``, ``high``, ``p`` and ``p_holm``, which is
        corrected for the number of comparisons in the table.
    """
    first, *others = runs
    rows = []
    for run in (run for run in others if same_rows(first, run)):
        for task in (task for task in first.curved if task in run.curved):
            found = auc_difference([run.curved[task]], [first.curved[task]], level)
            if found:
                rows.append((task, run.name, first.name, found.estimate, found.low, found.high, found.p))
    frame = pd.DataFrame(rows, columns=list(DIFFERENCE_COLUMNS[:-1]))
    return frame.assign(p_holm=holm(frame["p"].tolist()) if rows else [])


def same_rows(a: ReportedRun, b: ReportedRun) -> bool:
    """Whether two runs were measured on the same rows: equal labels and equal groups in the same order.

    What their schemas say of the tasks that both have must also count the same rows with the same weights.
    """
    labels = a.predictions.labels
    other = b.predictions.labels
    group = a.fitted.schema.group
    return (
        labels.keys() == other.keys()
        and all(np.array_equal(labels[name], other[name], equal_nan=True) for name in labels)
        and group == b.fitted.schema.group
        and (group is None or a.predictions.keys[group].equals(b.predictions.keys[group]))
        and all(compared.same_rows(a.scores[name], b.scores[name]) for name in a.scores if name in b.scores)
    )


def difference_table(frame: pd.DataFrame, against: str) -> Table:
    """Show differences in AUC."""
    shown = pd.DataFrame(
        {
            "task": frame["task"],
            "run": frame["run"],
            "AUC difference": [Interval(*ends) for ends in frame[["difference", "low", "high"]].to_numpy().tolist()],
            "p": frame["p"],
            "p, Holm": frame["p_holm"],
        }
    )
    return Table.of(shown, f"AUC less that of {against} on the same rows, with 95 % intervals below")


def difference_sentence(frame: pd.DataFrame, level: float = 0.95) -> str:
    """Say what the differences support: something of these runs, not of all that their recipes might give."""
    told = frame[frame["p_holm"] < 1 - level].to_dict("records")
    if not told:
        return f"No difference can be told from zero at {level:.0%} (Holm, comparisons: {len(frame)})."
    parts = [
        f"{d['run']} is {'better' if d['difference'] > 0 else 'worse'} than {d['against']} on {d['task']} "
        f"by {abs(d['difference']):.4f}"
        for d in told
    ]
    return (
        f"Told from zero at {level:.0%} (Holm, comparisons: {len(frame)}): {'; '.join(parts)}. This is about these "
        "runs: the same recipes with other seeds might give other ones (`recmtl compare` takes several)."
    )
