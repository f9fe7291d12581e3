"""Curves as points: of predictions, and over the steps of a training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from recmtl.evaluate.scores import Scores

Curves = dict[str, tuple[list[int], list[float]]]  # by name: steps and values
MOST = 500  # points of a curve that is drawn


def roc_points(scores: Scores, most: int = MOST) -> pd.DataFrame:
    """Give the ROC curve of a binary task, thinned so that no point of it is further than 4 / `most` from what is left.

    Args:
        scores: Labels of both classes, and predictions.
        most: The most points that are left.

    Returns:
        The columns ``false_positive_rate`` and ``true_positive_rate``, both ascending.
    """
    x, y, _ = roc_curve(scores.labels, scores.predictions, sample_weight=scores.weight, drop_intermediate=True)
    length = x + y  # the way along a curve that only rises
    kept = _thinned(np.searchsorted(length, np.linspace(0, length[-1], most)), len(x), most)
    return pd.DataFrame({"false_positive_rate": x[kept], "true_positive_rate": y[kept]})


def precision_recall_points(scores: Scores, most: int = MOST) -> pd.DataFrame:
    """Give the precision-recall curve of a binary task, thinned to the extremes of narrow ranges of recall.

    Args:
        scores: Labels of both classes, and predictions.
        most: The most points that are left.

    Returns:
        The columns ``recall``, ascending, and ``precision``, which holds back to the recall before.
    """
    y, x, _ = precision_recall_curve(
        scores.labels, scores.predictions, sample_weight=scores.weight, drop_intermediate=True
    )
    frame = pd.DataFrame({"recall": x[-2::-1], "precision": y[-2::-1]})  # the last one is no threshold's
    ranges = frame.groupby(np.minimum(frame["recall"] * (most // 4), most // 4 - 1).astype(int))["precision"]
    ends = np.r_[0, np.cumsum(ranges.size()) - 1]
    return frame.iloc[_thinned(np.r_[ends, ranges.idxmin(), ranges.idxmax()], len(frame), most)].reset_index(drop=True)


def _thinned(kept: npt.NDArray[np.int64], points: int, most: int) -> npt.NDArray[np.int64]:
    """Say which of a number of points are left: all where they are few, or else those named."""
    return np.arange(points) if points <= most else np.unique(kept)


def loss_curves(records: Iterable[Mapping[str, Any]]) -> Curves:
    """Collect the training loss of each objective from the lines of `metrics.jsonl`."""
    return _collected((record["step"], record.get("loss", {})) for record in records)


def metric_curves(records: Iterable[Mapping[str, Any]]) -> Curves:
    """Collect the main validation metric of each task (the AUC of a binary one) from the lines of `metrics.jsonl`."""
    return _collected((record["step"], dict(map(_main, record.get("valid", {}).items()))) for record in records)


def _main(measured: tuple[str, Mapping[str, float | None]]) -> tuple[str, float | None]:
    task, metrics = measured
    name = next(iter(metrics))
    return f"{task} {name}", metrics[name]


def diagnosis_curves(records: Iterable[Mapping[str, Any]], what: str) -> Curves:
    """Collect one of the measurements of a diagnosis, such as `cosine`, from the lines of `metrics.jsonl`."""
    return _collected((record["step"], record.get("diagnosis", {}).get(what, {})) for record in records)


def weight_curves(records: Iterable[Mapping[str, Any]]) -> Curves:
    """Collect the task weights from the lines of `metrics.jsonl`, those of a diagnosis among them."""
    found: dict[int, Mapping[str, float | None]] = {}
    for record in records:
        weights = record.get("weight") or record.get("diagnosis", {}).get("weight")
        if weights:
            found[record["step"]] = weights
    return _collected(found.items())


def _collected(measured: Iterable[tuple[int, Mapping[str, float | None]]]) -> Curves:
    curves: Curves = {}
    for step, named in measured:
        for name, value in named.items():
            if value is not None:
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    return curves
