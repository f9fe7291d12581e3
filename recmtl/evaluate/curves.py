"""ROC, precision-recall and reliability curves as points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from recmtl.evaluate.binary import CALIBRATION_BINS, SortedScores, block_sums, score_histogram
from recmtl.evaluate.scores import Scores

MOST_POINTS = 500  # of a curve


def roc_points(scores: Scores, most: int = MOST_POINTS) -> pd.DataFrame:
    """Return the ROC curve of a binary task, thinned so that no point is further than 4 / `most` from the rest."""
    histogram = score_histogram(scores)
    x, y = (np.cumsum(np.append(0.0, part[::-1])) for part in (histogram.negatives, histogram.positives))  # [V + 1]
    corner = (np.diff(x, 2) != 0) | (np.diff(y, 2) != 0)  # points within a straight line are left out
    corner = np.concatenate([[True], corner, [True]])
    x, y = x[corner] / x[-1], y[corner] / y[-1]
    length = x + y  # along the curve, which only rises
    kept = _thinned(np.searchsorted(length, np.linspace(0, length[-1], most)), len(x), most)
    return pd.DataFrame({"false_positive_rate": x[kept], "true_positive_rate": y[kept]})


def precision_recall_points(scores: Scores, most: int = MOST_POINTS) -> pd.DataFrame:
    """Return the precision-recall curve of a binary task, thinned to the extremes of narrow ranges of recall.

    Recall ascends; precision is constant back to the previous recall. The last precision is the share of positives.
    """
    histogram = score_histogram(scores)
    hits = np.cumsum(histogram.positives[::-1])  # [V]
    shown = np.cumsum(histogram.negatives[::-1]) + hits
    step = np.diff(hits, prepend=0.0) != 0
    kept = step | np.append(step[1:], True)  # between two steps precision only falls
    kept[-1] = True
    frame = pd.DataFrame({"recall": hits[kept] / hits[-1], "precision": hits[kept] / shown[kept]})
    ranges = frame.groupby(np.minimum(frame["recall"] * (most // 4), most // 4 - 1).astype(int))["precision"]
    ends = np.r_[0, np.cumsum(ranges.size()) - 1]
    return frame.iloc[_thinned(np.r_[ends, ranges.idxmin(), ranges.idxmax()], len(frame), most)].reset_index(drop=True)


def _thinned(kept: npt.NDArray[np.int64], points: int, most: int) -> npt.NDArray[np.int64]:
    """Return the indices of all points if there are few, otherwise those to keep."""
    return np.arange(points) if points <= most else np.unique(kept)


def reliability_bins(scores: Scores, bins: int = CALIBRATION_BINS) -> pd.DataFrame:
    """Return predicted and observed rates in bins of equal weight, from the lowest predictions to the highest.

    Equal predictions share the bin of the middle of their weight, so a bin may be larger than others, or empty and
    then left out. The weighted mean of |`predicted` − `observed`| is the expected calibration error.

    Args:
        scores: The rows of a binary task.
        bins: The maximum number of bins.

    Returns:
        A row for each bin, with the columns `low` and `high` (the lowest and the highest prediction), `predicted` and
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
    histogram = rows.histogram()
    weight = histogram.positives + histogram.negatives  # [V]
    numbers, starts = np.unique(histogram.bins(bins), return_index=True) if len(weight) else (np.zeros(0, int),) * 2
    bin_weight = block_sums(weight, starts)
    return pd.DataFrame(
        {
            "low": histogram.values[starts],
            "high": histogram.values[np.append(starts[1:], len(weight)) - 1] if len(weight) else np.zeros(0),
            "predicted": block_sums(weight * histogram.values, starts) / bin_weight,
            "observed": block_sums(histogram.positives, starts) / bin_weight,
            "rows": np.add.reduceat(rows.sizes(), starts) if len(weight) else np.zeros(0, int),
            "weight": bin_weight,
        },
        index=pd.Index(numbers, name="bin"),
    )
