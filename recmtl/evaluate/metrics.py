"""What a prediction is worth: metrics of one task, defined or with the reason why not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from recmtl.evaluate.binary import ScoreHistogram, SortedScores, distinct, ratio
from recmtl.evaluate.ranking import Averages, K, by_group
from recmtl.evaluate.scores import Floats, Integers, Scores, scores_of
from recmtl.schema import Task


@dataclass(frozen=True)
class Metrics:
    """The metrics of one task.

    Args:
        values: By name; ``None`` where a metric is undefined.
        rows: How many rows count for the task.
        positives: How many of them are positive; ``None`` for a regression.
        reason: Why a metric is undefined.
        capped: How many rows of a derived CVR were capped at 1; ``None`` where the task was predicted directly.
        groups: How many groups the rows form; ``None`` where no metric within groups was measured.
        groups_left_out: How many of these have one class alone, and count for no metric within groups.
    """

    values: dict[str, float | None]
    rows: int
    positives: int | None = None
    reason: str | None = None
    capped: int | None = None
    groups: int | None = None
    groups_left_out: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the metrics as plain data; what does not apply is left out."""
        extras = {
            "positives": self.positives,
            "groups": self.groups,
            "groups_left_out": self.groups_left_out,
            "reason": self.reason,
            "capped": self.capped,
        }
        return {**self.values, "rows": self.rows, **{k: v for k, v in extras.items() if v is not None}}


def metrics_of(scores: Scores, k: int = K, names: Collection[str] | None = None) -> Metrics:
    """Measure a task on its rows.

    Of a binary task: AUC and average precision (`pr_auc`), exact, ties right; log-loss; normalised entropy (`ne`);
    `calibration`, the mean prediction over the mean label; `ece`, the expected calibration error in 15 bins of equal
    weight. Where the rows have groups, also `gauc`, `ndcg@k` and `recall@k`, see `by_group`. Of a regression: `mae`,
    `rmse` and `r2`. A row's weight counts it so many times.

    Args:
        scores: The rows.
        k: How many rows of a group NDCG and recall look at.
        names: The metrics to measure, where not all are wanted; what a task does not have is passed over.
    """
    wanted = chosen(scores, names, k)
    refused = refusals(scores, wanted)
    measure = measure_of(scores, [name for name in wanted if name not in refused], k)
    found = measure()
    values = {name: None if np.isnan(found.get(name, np.nan)) else found[name] for name in wanted}
    positives = None if scores.task.kind == "regression" else int(scores.labels.sum())
    undefined = [name for name, value in values.items() if value is None and name not in refused]
    reasons = [*refused.values(), *([why_undefined(scores)] if undefined else [])]
    averages = measure.averages if isinstance(measure, BinaryMeasure) else None
    return Metrics(
        values,
        len(scores),
        positives,
        "; ".join(dict.fromkeys(reasons)) or None,
        scores.capped,
        averages.groups if averages else None,
        averages.left_out if averages else None,
    )


def why_undefined(scores: Scores) -> str:
    """Say why the labels leave a metric undefined."""
    rows, positives = len(scores), scores.labels.sum()
    if scores.task.kind == "regression":
        return "every label is the same"
    if positives in (0, rows):
        return f"every one of the {rows} labels is {int(positives > 0)}"
    return "no group has both classes"


def binary_metrics(labels: Floats, probabilities: Floats, weight: Floats | None = None) -> Metrics:
    """Measure the probabilities of a binary task on the rows that have a label.

    Shape:
        - labels, probabilities, weight: ``[rows]``; NaN in labels: the row does not count

    Args:
        labels: 0, 1 or NaN.
        probabilities: Of label 1.
        weight: Of each row.
    """
    return metrics_of(scores_of(Task("label", "label"), labels, probabilities, weight))


def regression_metrics(labels: Floats, values: Floats, weight: Floats | None = None) -> Metrics:
    """Measure the predictions of a regression on the rows that have a label.

    Shape:
        - labels, values, weight: ``[rows]``; NaN in labels: the row does not count
    """
    return metrics_of(scores_of(Task("label", "label", kind="regression"), labels, values, weight))


def table(metrics: dict[str, Metrics]) -> pd.DataFrame:
    """Set the metrics of several tasks in a table, one row a task; NaN where undefined."""
    frame = pd.DataFrame([m.to_dict() for m in metrics.values()], index=pd.Index(list(metrics), name="task"))
    names = dict.fromkeys(name for m in metrics.values() for name in m.values)
    return frame.astype(dict.fromkeys(names, float))


METRICS = {  # by kind of task, the main one first
    "binary": ("auc", "logloss", "pr_auc", "ne", "calibration", "ece"),
    "regression": ("mae", "rmse", "r2"),
}
GROUPED = ("gauc", "ndcg@{k}", "recall@{k}")  # of binary tasks whose rows have groups
PROBABILITIES = frozenset({"logloss", "ne", "calibration", "ece"})  # need them; the others, an order alone
INFLATED = frozenset({"ece"})  # by drawing rows with replacement: what the draws give lies above the estimate
LOWER_IS_BETTER = frozenset({"logloss", "ne", "ece", "mae", "rmse"})
FUNCTIONS = {
    "auc": ScoreHistogram.auc,
    "logloss": ScoreHistogram.logloss,
    "pr_auc": ScoreHistogram.pr_auc,
    "ne": ScoreHistogram.ne,
    "calibration": ScoreHistogram.calibration,
    "ece": ScoreHistogram.ece,
}


def metric_names(kind: str, grouped: bool, k: int = K) -> tuple[str, ...]:
    """Name the metrics of a task, the main one first.

    Args:
        kind: Of the task.
        grouped: Whether its rows have groups.
        k: How many rows of a group NDCG and recall look at.
    """
    at_k = tuple(name.format(k=k) for name in GROUPED) if grouped and kind == "binary" else ()
    return METRICS[kind] + at_k


def monitors(kind: str, grouped: bool) -> tuple[str, ...]:
    """Name the metrics of which the highest or the lowest is the best; calibration is best at 1."""
    return tuple(name for name in metric_names(kind, grouped) if name != "calibration")


class BinaryMeasure:
    """The metrics of a binary task, whose rows are sorted once for all that is asked; one that is undefined is NaN.

    Args:
        scores: The rows; their predictions are finite.
        names: What to measure.
        k: How many rows of a group NDCG and recall look at.

    Attributes:
        averages: The metrics within groups; ``None`` where none is asked for.
    """

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K) -> None:
        self._names, self._scores = names, scores
        self.averages: Averages | None = None
        if not set(names) <= set(FUNCTIONS):
            self.averages = Averages(by_group(scores, k, self._rows.order), k)

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Measure.

        Shape:
            - times: ``[clusters]``

        Args:
            times: How often each of the clusters of the rows counts; ``None`` counts each once.
        """
        if times is not None:
            ranked = self._rows.ranked(times[self._clusters])
        else:
            ranked = self._rows.ranked() if self.averages else distinct(self._scores)
        values = {name: FUNCTIONS[name](ranked) for name in self._names if name in FUNCTIONS}
        if self.averages is not None:
            values |= {name: self.averages.average(name, times) for name in self._names if name not in FUNCTIONS}
        return values

    @cached_property
    def _rows(self) -> SortedScores:
        return SortedScores(self._scores)

    @cached_property
    def _clusters(self) -> Integers:
        """The clusters of the rows, by prediction ``[rows]``."""
        codes, _ = self._scores.clusters()
        return codes[self._rows.order]


class RegressionMeasure:
    """The metrics of a regression; one that is undefined is NaN.

    Args:
        scores: The rows; their predictions are finite.
        names: What to measure.
    """

    def __init__(self, scores: Scores, names: Sequence[str]) -> None:
        self._names, self._scores = names, scores
        self._weight = np.ones(len(scores)) if scores.weight is None else scores.weight
        self._errors = scores.predictions - scores.labels

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Measure; `times` as for a binary task."""
        weight, labels = self._weight, self._scores.labels
        if times is not None:
            weight = weight * times[self._clusters]
        total = weight.sum()
        squares = weight @ self._errors**2
        values = {"mae": ratio(weight @ np.abs(self._errors), total), "rmse": ratio(squares, total) ** 0.5}
        counted = labels[weight > 0]
        spread = weight @ (labels - ratio(weight @ labels, total)) ** 2 if len(counted) and np.ptp(counted) else 0.0
        values["r2"] = 1 - ratio(squares, spread)
        return {name: values[name] for name in self._names}

    @cached_property
    def _clusters(self) -> Integers:
        codes, _ = self._scores.clusters()
        return codes


def measure_of(scores: Scores, names: Sequence[str], k: int = K) -> BinaryMeasure | RegressionMeasure:
    """Make what measures a task, without the metrics that `refusals` names."""
    if scores.task.kind == "regression":
        return RegressionMeasure(scores, names)
    return BinaryMeasure(scores, names, k)


def chosen(scores: Scores, names: Collection[str] | None, k: int = K) -> tuple[str, ...]:
    """Name those of the metrics of a task that are asked for, the main one first; ``None`` asks for all."""
    known = metric_names(scores.task.kind, scores.groups is not None, k)
    return known if names is None else tuple(name for name in known if name in names)


def refusals(scores: Scores, names: Sequence[str]) -> dict[str, str]:
    """Say which metrics cannot be measured, and why: there are no rows, or the predictions are not what they need."""
    rows = len(scores)
    if rows == 0:
        return dict.fromkeys(names, "no row has a label")
    wrong = int((~np.isfinite(scores.predictions)).sum())
    if wrong:
        return dict.fromkeys(names, f"{wrong} of {rows} predictions are not finite")
    if scores.task.kind == "regression":
        return {}
    wrong = int(((scores.predictions < 0) | (scores.predictions > 1)).sum())
    needed = [name for name in names if name in PROBABILITIES]
    return dict.fromkeys(needed, f"{wrong} of {rows} predictions are not in [0, 1]") if wrong else {}
