"""What a prediction is worth: metrics of one task, defined or with the reason why not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import log_loss, mean_absolute_error, mean_squared_error, r2_score, roc_auc_score

Floats = npt.NDArray[np.float64]
METRICS = {"binary": ("auc", "logloss"), "regression": ("mae", "rmse", "r2")}  # by kind of task, the main one first
LOWER_IS_BETTER = frozenset({"logloss", "mae", "rmse"})


@dataclass(frozen=True)
class Metrics:
    """The metrics of one task.

    Args:
        values: By name; ``None`` where a metric is undefined.
        rows: How many rows count for the task.
        positives: How many of them are positive; ``None`` for a regression.
        reason: Why a metric is undefined.
        capped: How many rows of a derived CVR were capped at 1; ``None`` where the task was predicted directly.
    """

    values: dict[str, float | None]
    rows: int
    positives: int | None = None
    reason: str | None = None
    capped: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the metrics as plain data; what does not apply is left out."""
        extras = {"positives": self.positives, "reason": self.reason, "capped": self.capped}
        return {**self.values, "rows": self.rows, **{k: v for k, v in extras.items() if v is not None}}


def binary_metrics(
    labels: Floats, probabilities: Floats, weight: Floats | None = None, capped: int | None = None
) -> Metrics:
    """Measure the probabilities of a binary task on the rows that have a label.

    AUC is exact, ties count half. With one class alone AUC is undefined; without rows the log-loss is, too. The
    log-loss takes probabilities of exactly 0 and 1 as the nearest float64 inside.

    Shape:
        - labels, probabilities, weight: ``[rows]``; NaN in labels: the row does not count

    Args:
        labels: 0, 1 or NaN.
        probabilities: Of label 1.
        weight: Of each row.
        capped: How many probabilities were capped, for a derived task.
    """
    valid = ~np.isnan(labels)
    if weight is not None:
        valid &= weight > 0
    y, p = labels[valid], probabilities[valid]
    w = None if weight is None else weight[valid]
    positives = int(y.sum())
    reason = undefined(len(y), positives, p)
    auc = None if reason else float(roc_auc_score(y, p, sample_weight=w))
    finite = bool(len(y)) and bool(np.isfinite(p).all())
    logloss = float(log_loss(y, p, sample_weight=w, labels=[0, 1])) if finite else None
    return Metrics({"auc": auc, "logloss": logloss}, len(y), positives, reason, capped)


def undefined(rows: int, positives: int, predictions: Floats) -> str | None:
    """Say why AUC is undefined, or give ``None`` where it is defined."""
    if rows == 0:
        return "no row has a label"
    if not np.isfinite(predictions).all():
        return f"{int((~np.isfinite(predictions)).sum())} of {rows} predictions are not finite"
    if positives in (0, rows):
        return f"every one of the {rows} labels is {int(positives > 0)}"
    return None


def regression_metrics(labels: Floats, values: Floats, weight: Floats | None = None) -> Metrics:
    """Measure the predictions of a regression on the rows that have a label.

    Shape:
        - labels, values, weight: ``[rows]``; NaN in labels: the row does not count
    """
    valid = ~np.isnan(labels)
    if weight is not None:
        valid &= weight > 0
    y, v = labels[valid], values[valid]
    w = None if weight is None else weight[valid]
    if len(y) == 0 or not np.isfinite(v).all():
        reason = "no row has a label" if len(y) == 0 else "some predictions are not finite"
        return Metrics({"mae": None, "rmse": None, "r2": None}, len(y), reason=reason)
    constant = bool((y == y[0]).all())
    return Metrics(
        {
            "mae": float(mean_absolute_error(y, v, sample_weight=w)),
            "rmse": float(mean_squared_error(y, v, sample_weight=w) ** 0.5),
            "r2": None if constant else float(r2_score(y, v, sample_weight=w)),
        },
        len(y),
        reason="every label is the same" if constant else None,
    )


def table(metrics: dict[str, Metrics]) -> pd.DataFrame:
    """Set the metrics of several tasks in a table, one row a task; NaN where undefined."""
    frame = pd.DataFrame([m.to_dict() for m in metrics.values()], index=pd.Index(list(metrics), name="task"))
    for column in frame.columns.intersection(["auc", "logloss", "mae", "rmse", "r2"]):
        frame[column] = frame[column].astype(float)
    return frame
