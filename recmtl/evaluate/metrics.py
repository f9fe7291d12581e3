"""Metrics of one task, or the reason why they are undefined."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recmtl.evaluate.measures import MEASURES
from recmtl.evaluate.measures.own import WithOwn
from recmtl.evaluate.own_metrics import OwnMetrics, check_own_metrics
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, RowTotals, Scores, scores_of
from recmtl.schema import Task

INFLATED = frozenset({"ece"})  # in bootstrap draws, which repeat rows
LOWER_IS_BETTER = frozenset({"logloss", "ne", "ece", "mae", "rmse", "poisson_deviance"})
METRIC_TITLES = {
    "auc": "AUC",
    "gini": "Gini",
    "poisson_deviance": "Poisson deviance",
    "macro_auc": "mean AUC of classes",
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


def metric_title(name: str) -> str:
    """Return what a metric is called in tables and sentences."""
    return METRIC_TITLES.get(name, name)


def main_metric(task: Task) -> str:
    """Return the metric that says most on a task of its kind."""
    return MEASURES[task.kind].metrics[0]


def metric_names(kind: str, grouped: bool, k: int = K) -> tuple[str, ...]:
    """Return the metrics of a task, the main one first.

    Args:
        kind: The kind of the task.
        grouped: Whether its rows have groups.
        k: The cutoff of NDCG and recall.
    """
    measure = MEASURES[kind]
    return measure.metrics + (tuple(name.format(k=k) for name in measure.grouped) if grouped else ())


def grouped_metrics(k: int = K) -> frozenset[str]:
    """Return the metrics of rows with groups, of all kinds of tasks."""
    return frozenset(name.format(k=k) for measure in MEASURES.values() for name in measure.grouped)


def check_own(metrics: OwnMetrics, tasks: Sequence[Task]) -> None:
    """Check that own metrics belong to tasks, and have no name of recmtl's.

    Raises:
        ValueError: A key is no task, no kind of the tasks and not `all`, or a name is taken.
    """
    taken = {name for task in tasks for name in (*metric_names(task.kind, True), "rows", "reason")}
    check_own_metrics(metrics, tasks, taken)


def monitors(kind: str, grouped: bool) -> tuple[str, ...]:
    """Return the metrics whose best value is the highest or the lowest: all but `calibration`, which is best at 1."""
    return tuple(name for name in metric_names(kind, grouped) if name != "calibration")


@dataclass(frozen=True)
class Metrics:
    """The metrics of one task.

    Args:
        values: The values by name; ``None`` if undefined.
        rows: The number of rows that count for the task.
        positives: The number of positives of a binary task; ``None`` for other kinds.
        reason: Why a metric is undefined.
        capped: The rows in which a rate of a funnel was lowered, as a step was likelier than the one before it;
            ``None`` for a rate that cannot be.
        groups: The number of groups; ``None`` without grouped metrics.
        groups_left_out: The number of groups with one class alone, or of equal amounts, which are left out of grouped
            metrics.
    """

    values: dict[str, float | None]
    rows: int
    positives: int | None = None
    reason: str | None = None
    capped: int | None = None
    groups: int | None = None
    groups_left_out: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the metrics as plain data, without the fields that do not apply."""
        optional = ("positives", "groups", "groups_left_out", "reason", "capped")
        extras = {name: getattr(self, name) for name in optional if getattr(self, name) is not None}
        return {**self.values, "rows": self.rows, **extras}


def metrics_of(scores: Scores, k: int = K, names: Collection[str] | None = None) -> Metrics:
    """Compute the metrics of a task.

    Binary tasks: AUC and average precision (`pr_auc`), exact and with correct ties; log-loss; normalised entropy
    (`ne`); `calibration`, the mean prediction over the mean label; `ece`, the expected calibration error in 15 bins of
    equal weight. With groups also `gauc`, `ndcg@k` and `recall@k`, see `by_group`, of amounts `ndcg@k`. Regression:
    `mae`, `rmse` and `r2`. Other kinds: see their measure in `recmtl.evaluate.measures`.
    A row of weight w counts like w rows. Metrics of the user's own, in `scores.own`, come last.

    Args:
        scores: The rows.
        k: The cutoff of NDCG and recall.
        names: The metrics; ``None`` takes all. Those that the task does not have are ignored.
    """
    wanted, totals = select_metrics(scores, names, k), totals_of(scores)
    blocked = unmeasurable_of(scores.task, totals, wanted)
    measure = measure_of(scores, [name for name in wanted if name not in blocked], k)
    averages = measure.averages
    counts = (averages.groups, averages.left_out) if averages else (None, None)
    found, capped = measure(), None if scores.capped is None else totals.capped
    return metrics_from(scores.task, wanted, found, totals, blocked | measure.reasons, capped, counts)


def metrics_from(
    task: Task,
    wanted: Sequence[str],
    found: Mapping[str, float],
    totals: RowTotals,
    explained: Mapping[str, str],
    capped: int | None,
    groups: tuple[int | None, int | None],
) -> Metrics:
    """Return the metrics of a task from their values.

    Args:
        task: The task.
        wanted: The names of the metrics.
        found: The values of those that could be measured, NaN if undefined.
        totals: The totals of the rows.
        explained: Why some could not be measured.
        capped: The rows in which a rate was lowered.
        groups: The number of groups, and of those left out.
    """
    values = {name: None if np.isnan(found.get(name, np.nan)) else found[name] for name in wanted}
    kind = MEASURES[task.kind]
    undefined = [name for name, value in values.items() if value is None and name not in explained]
    reasons = [*explained.values(), *([kind.why_undefined(totals)] if undefined else [])]
    reason = "; ".join(dict.fromkeys(reasons)) or None
    return Metrics(values, totals.rows, kind.positives(totals), reason, capped, *groups)


def binary_metrics(labels: Floats, probabilities: Floats, weight: Floats | None = None) -> Metrics:
    """Compute the metrics of a binary task on the rows that have a label.

    Shape:
        - labels, probabilities, weight: ``[rows]``; NaN in labels: the row does not count

    Args:
        labels: From 0 to 1, or NaN.
        probabilities: The predicted probabilities of label 1.
        weight: Row weights.
    """
    return metrics_of(scores_of(Task("label", "label"), labels, probabilities, weight))


def table(metrics: dict[str, Metrics]) -> pd.DataFrame:
    """Return the metrics of several tasks as a DataFrame, a row for each task; NaN if undefined."""
    frame = pd.DataFrame([m.to_dict() for m in metrics.values()], index=pd.Index(list(metrics), name="task"))
    names = dict.fromkeys(name for m in metrics.values() for name in m.values)
    return frame.astype(dict.fromkeys(names, float))


def select_metrics(scores: Scores, names: Collection[str] | None, k: int = K) -> tuple[str, ...]:
    """Return the metrics of a task that are in `names`, the main one first; ``None`` takes all."""
    known = metric_names(scores.task.kind, scores.groups is not None, k) + tuple(m.name for m in scores.own)
    return known if names is None else tuple(name for name in known if name in names)


def totals_of(scores: Scores) -> RowTotals:
    """Return the totals of rows."""
    return RowTotals.of(scores, MEASURES[scores.task.kind].is_valid(scores.predictions))


def unmeasurable(scores: Scores, names: Sequence[str]) -> dict[str, str]:
    """Return the metrics that cannot be computed with the reason: no rows, or predictions that are not valid."""
    return unmeasurable_of(scores.task, totals_of(scores), names)


def unmeasurable_of(task: Task, totals: RowTotals, names: Sequence[str]) -> dict[str, str]:
    """Return the metrics that cannot be computed of rows with these totals, with the reason."""
    if totals.rows == 0:
        return dict.fromkeys(names, "no row has a label")
    if totals.infinite:
        return dict.fromkeys(names, f"{totals.infinite} of {totals.rows} predictions are not finite")
    kind = MEASURES[task.kind]
    needed = [name for name in names if name in kind.needs_valid]
    why = f"{totals.invalid} of {totals.rows} predictions are not {kind.valid}"
    return dict.fromkeys(needed, why) if totals.invalid else {}


def measure_of(scores: Scores, names: Sequence[str], k: int = K) -> WithOwn:
    """Return the measure of a task for metrics that are not `unmeasurable`."""
    return WithOwn(MEASURES[scores.task.kind], scores, names, k)
