"""What a prediction is worth: metrics of one task, defined or with the reason why not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from recmtl.evaluate.grouped import K
from recmtl.evaluate.measures import BinaryMeasure, chosen, measure_of, refusals
from recmtl.evaluate.scores import Floats, Scores, scores_of
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
