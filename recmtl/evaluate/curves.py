"""Curves as points: of predictions, and over the steps of a training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import precision_recall_curve, roc_curve

from recmtl.evaluate.binary import SortedScores, totals
from recmtl.evaluate.scores import Scores

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


BINS = 15


def reliability(scores: Scores, bins: int = BINS) -> pd.DataFrame:
    """Set predicted beside observed rates, in bins of equal weight from the lowest predictions to the highest.

    Equal predictions share a bin, that of the middle of their weight: a bin may hold more than its share, or nothing
    and is then left out. The weighted mean of |`predicted` − `observed`| is the expected calibration error.

    Args:
        scores: The rows of a binary task.
        bins: How many bins to make, at most.

    Returns:
        A row for each bin, with the columns `low` and `high` (the least and the greatest prediction), `predicted` and
        `observed` (weighted means), `rows` and `weight`.

    Raises:
        ValueError: `bins` is below 1, or a prediction is not a probability.
    """
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}")
    wrong = ~((scores.predictions >= 0) & (scores.predictions <= 1))  # [rows]
    if wrong.any():
        raise ValueError(f"predictions must be probabilities in [0, 1], got {scores.predictions[wrong][0]}")
    rows = SortedScores(scores)
    ranked = rows.ranked()
    weight = ranked.positives + ranked.negatives  # [V]
    numbers, starts = np.unique(ranked.bins(bins), return_index=True) if len(weight) else (np.zeros(0, int),) * 2
    whole = totals(weight, starts)
    return pd.DataFrame(
        {
            "low": ranked.values[starts],
            "high": ranked.values[np.append(starts[1:], len(weight)) - 1] if len(weight) else np.zeros(0),
            "predicted": totals(weight * ranked.values, starts) / whole,
            "observed": totals(ranked.positives, starts) / whole,
            "rows": np.add.reduceat(rows.sizes(), starts) if len(weight) else np.zeros(0, int),
            "weight": whole,
        },
        index=pd.Index(numbers, name="bin"),
    )
