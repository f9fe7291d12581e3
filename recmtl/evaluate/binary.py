"""Metrics of binary tasks from sorted predictions: one sort, then O(rows) for each metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.scores import Floats, Integers, Scores

EPSILON = float(np.finfo(np.float64).eps)
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class ScoreHistogram:
    """The distinct predictions in ascending order, with the weight of positives and of negatives at each.

    All ungrouped metrics are functions of these; the order among ties does not matter. Undefined metrics are NaN.

    Shape:
        - values, positives, negatives: ``[V]``, V distinct predictions
    """

    values: Floats
    positives: Floats
    negatives: Floats

    def auc(self) -> float:
        """Return the share of (positive, negative) pairs in the right order; ties count half."""
        below = np.cumsum(self.negatives) - self.negatives / 2
        return ratio(self.positives @ below, self.positives.sum() * self.negatives.sum())

    def pr_auc(self) -> float:
        """Return the average precision: the mean over the positives of the precision at their prediction."""
        hits = np.cumsum(self.positives[::-1])
        shown = np.cumsum(self.negatives[::-1]) + hits
        precision = np.divide(hits, shown, out=np.zeros_like(hits), where=shown > 0)
        if not self.negatives.any():
            return float("nan")
        return ratio(self.positives[::-1] @ precision, self.positives.sum())

    def logloss(self) -> float:
        """Return the mean log-loss; probabilities are clipped to within 2⁻⁵² of 0 and 1."""
        p = np.clip(self.values, EPSILON, 1 - EPSILON)
        total = self.positives @ np.log(p) + self.negatives @ np.log1p(-p)
        return ratio(-total, self.positives.sum() + self.negatives.sum())

    def ne(self) -> float:
        """Return the normalised entropy: log-loss over that of predicting the mean label (He et al. 2014)."""
        rate = ratio(self.positives.sum(), self.positives.sum() + self.negatives.sum())
        if not 0 < rate < 1:
            return float("nan")
        return self.logloss() / float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))

    def calibration(self) -> float:
        """Return the mean prediction over the mean label; above 1 means overprediction."""
        return ratio((self.positives + self.negatives) @ self.values, self.positives.sum())

    def bins(self, count: int) -> Integers:
        """Return the bin of each prediction ``[V]``: bins of equal weight as far as ties allow.

        Equal predictions share the bin of the middle of their weight, so the order of rows does not matter.
        """
        weight = self.positives + self.negatives
        middle = np.cumsum(weight) - weight / 2
        numbers: Integers = (middle * (count / weight.sum())).astype(np.int64)
        return np.minimum(numbers, count - 1)

    def ece(self, bins: int = CALIBRATION_BINS) -> float:
        """Return the expected calibration error: mean |mean prediction − mean label| over bins of equal weight."""
        weight = self.positives + self.negatives
        if not weight.any():
            return float("nan")
        gaps = np.bincount(self.bins(bins), weight * self.values - self.positives)
        return float(np.abs(gaps).sum() / weight.sum())


def score_histogram(scores: Scores) -> ScoreHistogram:
    """Build the histogram of a binary task without the order of its rows, which is faster without weights.

    The bits of non-negative floats sort like the floats and leave the sign bit free for the label.
    """
    if scores.weight is not None or scores.soft or (len(scores) and scores.predictions.min() < 0):
        return SortedScores(scores).histogram()
    keys = (scores.predictions + 0.0).view(np.uint64)  # [rows]; + 0.0 makes -0.0 the same as 0.0
    keys <<= np.uint64(1)
    keys |= scores.labels.astype(np.uint64)
    keys.sort()
    labels = (keys & np.uint64(1)).astype(np.float64)
    keys >>= np.uint64(1)
    starts = block_starts(keys)
    positives = block_sums(labels, starts)
    return ScoreHistogram(keys.view(np.float64)[starts], positives, np.diff(starts, append=len(keys)) - positives)


class SortedScores:
    """The rows of a binary task, sorted by prediction."""

    def __init__(self, scores: Scores) -> None:
        self.order = np.argsort(scores.predictions)  # [rows]
        predictions = scores.predictions[self.order]
        self.starts = block_starts(predictions)  # [V], of each distinct prediction
        self._values = predictions[self.starts]
        self._weight = None if scores.weight is None else scores.weight[self.order]
        self._positive = scores.labels[self.order] * (1.0 if self._weight is None else self._weight)  # [rows]

    def histogram(self, times: Floats | None = None) -> ScoreHistogram:
        """Build the histogram; `times` is how often each row counts, ``[rows]`` in the order of `order`."""
        positive, weight = self._positive, self._weight
        if times is not None:
            positive, weight = positive * times, times if weight is None else weight * times
        positives = block_sums(positive, self.starts)
        total = self.sizes().astype(np.float64) if weight is None else block_sums(weight, self.starts)
        return ScoreHistogram(self._values, positives, np.maximum(total - positives, 0.0))

    def sizes(self) -> Integers:
        """Count the rows at each distinct prediction ``[V]``."""
        return np.diff(self.starts, append=len(self.order))


def block_starts(*keys: npt.NDArray[np.generic]) -> Integers:
    """Return the indices ``[blocks]`` at which blocks of equal entries start; blocks differ in any of the keys."""
    first = np.ones(len(keys[0]), bool)
    first[1:] = False
    for key in keys:
        first[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(first)


def block_sums(values: Floats, starts: Integers) -> Floats:
    """Sum values ``[rows]`` over the blocks that start at `starts`."""
    summed: Floats = np.add.reduceat(values, starts) if len(starts) else np.zeros(0)
    return summed


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> float:
    """Divide two numbers; NaN if the divisor is 0."""
    divisor = float(np.asarray(whole))
    return float(np.asarray(part)) / divisor if divisor else float("nan")
