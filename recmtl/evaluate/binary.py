"""Metrics of binary tasks from sorted predictions: one sort, then O(rows) for each metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.scores import Floats, Integers, Scores

EPSILON = float(np.finfo(np.float64).eps)
CALIBRATION_BINS = 15


Side = tuple[float, float]  # the weight of positives and of negatives


@dataclass(frozen=True)
class ScoreHistogram:
    """The distinct predictions in ascending order, with the weight of positives and of negatives at each.

    All ungrouped metrics are functions of sums over these; the order among ties does not matter. It may be one part of
    a histogram that was cut between predictions: the sums of its parts add up to those of the whole.

    Shape:
        - values, positives, negatives: ``[V]``, V distinct predictions

    Args:
        values: The distinct predictions.
        positives: The weight of the positives at each.
        negatives: The weight of the negatives at each.
        below: The weights of positives and of negatives in the parts with lower predictions.
        above: Those in the parts with higher ones.
    """

    values: Floats
    positives: Floats
    negatives: Floats
    below: Side = (0.0, 0.0)
    above: Side = (0.0, 0.0)

    def auc(self) -> float:
        """Return the share of (positive, negative) pairs in the right order; ties count half."""
        return auc_of(self.auc_sums())

    def auc_sums(self) -> Floats:
        """Return the weight of the pairs in the right order, of the positives, and of the negatives ``[3]``."""
        below = self.below[1] + np.cumsum(self.negatives) - self.negatives / 2
        return np.array([self.positives @ below, *self.weights()])

    def pr_auc_sums(self) -> Floats:
        """Return the precision summed over the positives, and the weights ``[3]``."""
        hits = self.above[0] + np.cumsum(self.positives[::-1])
        shown = self.above[1] + np.cumsum(self.negatives[::-1]) + hits
        precision = np.divide(hits, shown, out=np.zeros_like(hits), where=shown > 0)
        return np.array([self.positives[::-1] @ precision, *self.weights()])

    def logloss_sums(self) -> Floats:
        """Return the summed log-loss, of probabilities within 2⁻⁵² of 0 and 1, and the weights ``[3]``."""
        p = np.clip(self.values, EPSILON, 1 - EPSILON)
        total = self.positives @ np.log(p) + self.negatives @ np.log1p(-p)
        return np.array([-total, *self.weights()])

    def calibration_sums(self) -> Floats:
        """Return the summed predictions, and the weight of the positives ``[2]``."""
        return np.array([(self.positives + self.negatives) @ self.values, self.positives.sum()])

    def ece_sums(self, bins: int = CALIBRATION_BINS) -> Floats:
        """Return the summed predictions − labels in bins of equal weight, and the weight of all ``[bins + 1]``."""
        weight = self.positives + self.negatives
        if not weight.any():
            return np.zeros(bins + 1)
        gaps = np.bincount(self.bins(bins), weight * self.values - self.positives, bins)
        return np.append(gaps, weight.sum())

    def bins(self, count: int) -> Integers:
        """Return the bin of each prediction ``[V]``: bins of equal weight as far as ties allow.

        Equal predictions share the bin of the middle of their weight, so the order of rows does not matter.
        """
        weight = self.positives + self.negatives
        middle = sum(self.below) + np.cumsum(weight) - weight / 2
        whole = sum(self.below) + weight.sum() + sum(self.above)
        numbers: Integers = (middle * (count / whole)).astype(np.int64)
        return np.minimum(numbers, count - 1)

    def weights(self) -> Side:
        """Return the weight of the positives, and that of the negatives."""
        return float(self.positives.sum()), float(self.negatives.sum())


def auc_of(sums: Floats) -> float:
    """Return the AUC from `auc_sums`."""
    won, positives, negatives = sums
    return ratio(won, positives * negatives)


def pr_auc_of(sums: Floats) -> float:
    """Return the average precision, the mean over the positives of the precision at their prediction."""
    precision, positives, negatives = sums
    return ratio(precision, positives) if negatives else float("nan")


def logloss_of(sums: Floats) -> float:
    """Return the mean log-loss."""
    loss, positives, negatives = sums
    return ratio(loss, positives + negatives)


def ne_of(sums: Floats) -> float:
    """Return the normalised entropy, log-loss over that of predicting the mean label (He et al. 2014)."""
    _, positives, negatives = sums
    rate = ratio(positives, positives + negatives)
    if not 0 < rate < 1:
        return float("nan")
    return logloss_of(sums) / float(-rate * np.log(rate) - (1 - rate) * np.log1p(-rate))


def ece_of(sums: Floats) -> float:
    """Return the expected calibration error: mean |mean prediction − mean label| over bins of equal weight."""
    return ratio(np.abs(sums[:-1]).sum(), sums[-1])


def ratio_of(sums: Floats) -> float:
    """Return the quotient of two sums."""
    return ratio(*sums)


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
