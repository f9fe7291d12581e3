"""Rows of a binary task in the order of their predictions: one sort, from which every metric follows in O(rows)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.scores import Floats, Integers, Scores

EPSILON = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class ScoreHistogram:
    """The distinct predictions in ascending order, with the weight of the positives and of the negatives at each.

    All metrics without groups are functions of these three; the place of a row among ties never matters. A metric that
    is undefined is NaN.

    Shape:
        - values, positives, negatives: ``[V]``, V distinct predictions
    """

    values: Floats
    positives: Floats
    negatives: Floats

    def auc(self) -> float:
        """Give the share of pairs of a positive and a negative that are in the right order, ties half."""
        below = np.cumsum(self.negatives) - self.negatives / 2
        return ratio(self.positives @ below, self.positives.sum() * self.negatives.sum())

    def pr_auc(self) -> float:
        """Give the average precision: the mean, over the positives, of the precision at their prediction."""
        found = np.cumsum(self.positives[::-1])
        shown = np.cumsum(self.negatives[::-1]) + found
        precision = np.divide(found, shown, out=np.zeros_like(found), where=shown > 0)
        if not self.negatives.any():
            return float("nan")
        return ratio(self.positives[::-1] @ precision, self.positives.sum())

    def logloss(self) -> float:
        """Give the mean log-loss; a probability of 0 or 1 is taken as 2⁻⁵² away from it."""
        p = np.clip(self.values, EPSILON, 1 - EPSILON)
        total = self.positives @ np.log(p) + self.negatives @ np.log1p(-p)
        return ratio(-total, self.positives.sum() + self.negatives.sum())

    def ne(self) -> float:
        """Give the normalised entropy: log-loss over that of always predicting the mean label (He et al. 2014)."""
        rate = ratio(self.positives.sum(), self.positives.sum() + self.negatives.sum())
        if not 0 < rate < 1:
            return float("nan")
        return self.logloss() / float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))

    def calibration(self) -> float:
        """Give the mean prediction over the mean label: above 1, too much is predicted."""
        return ratio((self.positives + self.negatives) @ self.values, self.positives.sum())

    def bins(self, count: int) -> Integers:
        """Give each prediction the number of its bin ``[V]``: bins of equal weight, so far as ties allow.

        Equal predictions share a bin, that of the middle of their weight; so the order of rows never matters.
        """
        weight = self.positives + self.negatives
        middle = np.cumsum(weight) - weight / 2
        numbers: Integers = (middle * (count / weight.sum())).astype(np.int64)
        return np.minimum(numbers, count - 1)

    def ece(self, bins: int = 15) -> float:
        """Give the expected calibration error: the mean of |mean prediction − mean label| over bins of equal weight."""
        weight = self.positives + self.negatives
        if not weight.any():
            return float("nan")
        gaps = np.bincount(self.bins(bins), weight * self.values - self.positives)
        return float(np.abs(gaps).sum() / weight.sum())


def distinct(scores: Scores) -> ScoreHistogram:
    """Weigh the distinct predictions of rows whose order is not needed: where they have no weights, in less time.

    The bits of numbers from 0 ascend as the numbers do and leave the sign's free, in which the label is sorted along.
    """
    if scores.weight is not None or (len(scores) and scores.predictions.min() < 0):
        return SortedScores(scores).ranked()
    keys = (scores.predictions + 0.0).view(np.uint64)  # [rows]; + 0.0 makes -0.0 the same as 0.0
    keys <<= np.uint64(1)
    keys |= scores.labels.astype(np.uint64)
    keys.sort()
    labels = (keys & np.uint64(1)).astype(np.float64)
    keys >>= np.uint64(1)
    starts = changes(keys)
    positives = totals(labels, starts)
    return ScoreHistogram(keys.view(np.float64)[starts], positives, np.diff(starts, append=len(keys)) - positives)


class SortedScores:
    """The rows of a binary task, sorted by prediction.

    Shape:
        - order: ``[rows]``, the rows in ascending order of prediction
        - starts: ``[V]``, where each distinct prediction begins in it

    Args:
        scores: The rows.
    """

    def __init__(self, scores: Scores) -> None:
        self.order = np.argsort(scores.predictions)
        predictions = scores.predictions[self.order]
        self.starts = changes(predictions)
        self._values = predictions[self.starts]
        self._weight = None if scores.weight is None else scores.weight[self.order]
        self._positive = scores.labels[self.order] * (1.0 if self._weight is None else self._weight)  # [rows]

    def ranked(self, times: Floats | None = None) -> ScoreHistogram:
        """Weigh the distinct predictions.

        Shape:
            - times: ``[rows]``, in the order of `order`

        Args:
            times: How often each row counts; ``None`` counts each once.
        """
        positive, weight = self._positive, self._weight
        if times is not None:
            positive, weight = positive * times, times if weight is None else weight * times
        positives = totals(positive, self.starts)
        whole = self.sizes().astype(np.float64) if weight is None else totals(weight, self.starts)
        return ScoreHistogram(self._values, positives, np.maximum(whole - positives, 0.0))

    def sizes(self) -> Integers:
        """Count the rows at each distinct prediction ``[V]``."""
        return np.diff(self.starts, append=len(self.order))


def changes(*keys: npt.NDArray[np.generic]) -> Integers:
    """Give the places ``[blocks]`` where a block of equal entries begins; blocks differ in any of the keys."""
    first = np.ones(len(keys[0]), bool)
    first[1:] = False
    for key in keys:
        first[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(first)


def totals(values: Floats, starts: Integers) -> Floats:
    """Sum values ``[rows]`` over the blocks that begin at `starts`."""
    summed: Floats = np.add.reduceat(values, starts) if len(starts) else np.zeros(0)
    return summed


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> float:
    """Divide two numbers; NaN where there is nothing to divide by."""
    divisor = float(np.asarray(whole))
    return float(np.asarray(part)) / divisor if divisor else float("nan")
