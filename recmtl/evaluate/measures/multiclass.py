"""The metrics of multi-class tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.binary import EPSILON, SortedScores, ratio
from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, Scores

ROUNDING = 1e-3  # of the sum of the probabilities of a row


def one_vs_rest(scores: Scores) -> Iterator[Scores]:
    """Yield for each class the probability of it ``[rows]``, and as the label whether a row is of it."""
    for number, probability in enumerate(np.ascontiguousarray(scores.predictions.T)):
        yield replace(scores, labels=(scores.labels == number).astype(float), predictions=probability)


def top_class(scores: Scores) -> Scores:
    """Return the highest probability of each row ``[rows]``, and as the label whether the row is of that class."""
    top = scores.predictions.argmax(1)
    probability = scores.predictions[np.arange(len(top)), top]
    return replace(scores, labels=(scores.labels == top).astype(float), predictions=probability)


class MulticlassMeasure(Measure):
    """Computes metrics of a multi-class task.

    `macro_auc` is the mean over the classes of the AUC of a class against all others; a class that no row has, or
    every row, is left out. `logloss` is the mean of −log of the probability of the label's class, `accuracy` the share
    of rows whose most probable class is the label (the first of equal ones), and `ece` the expected calibration error
    of the highest probability of a row. With a weight a row counts like so many.

    Shape:
        - predictions: ``[rows, C]``; labels: ``[rows]``, the numbers of classes from 0 to C − 1
    """

    title = "Multi-class tasks"
    metrics = ("macro_auc", "logloss", "accuracy", "ece")
    monitor, fallback, ties = "macro_auc", "logloss", "logloss"
    fast = frozenset({"macro_auc", "logloss", "accuracy"})
    by_domain = ("macro_auc", "logloss", "accuracy")
    needs_valid = frozenset({"logloss", "ece"})
    expected, valid = "a probability in [0, 1]", "probabilities that add up to 1"

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K) -> None:
        super().__init__(scores, names, k)
        self._classes = scores.labels.astype(np.int64)  # [rows]

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Compute the metrics; `times` as for `Measure`."""
        return {name: getattr(self, f"_{name}")(times) for name in self._names}

    def _macro_auc(self, times: Floats | None) -> float:
        found = [self._sorted_auc(rows, times) for rows in self._by_class]
        defined = [auc for auc in found if not np.isnan(auc)]
        return float(np.mean(defined)) if defined else float("nan")

    def _sorted_auc(self, rows: SortedScores, times: Floats | None) -> float:
        of_rows = None if times is None else times[self._scores.clusters[0][rows.order]]
        return rows.histogram(of_rows).auc()

    def _logloss(self, times: Floats | None) -> float:
        weight = self._weights(times)
        return ratio(weight @ self._row_losses, weight.sum())

    def _accuracy(self, times: Floats | None) -> float:
        weight = self._weights(times)
        return ratio(weight @ self._top.labels, weight.sum())

    def _ece(self, times: Floats | None) -> float:
        of_rows = None if times is None else times[self._scores.clusters[0][self._confidence.order]]
        return self._confidence.histogram(of_rows).ece()

    @cached_property
    def _row_losses(self) -> Floats:
        own = self._scores.predictions[np.arange(len(self._classes)), self._classes]
        losses: Floats = -np.log(np.clip(own, EPSILON, 1.0))
        return losses

    @cached_property
    def _top(self) -> Scores:
        return top_class(self._scores)

    @cached_property
    def _confidence(self) -> SortedScores:
        return SortedScores(self._top)

    @cached_property
    def _by_class(self) -> list[SortedScores]:
        """The rows sorted by the probability of each class, whose label says whether they are of it."""
        return [SortedScores(rows) for rows in one_vs_rest(self._scores)]

    @staticmethod
    def fits(column: Floats) -> npt.NDArray[np.bool_]:
        """Return which rows of a column hold a probability, bool ``[rows]``."""
        return (column >= 0) & (column <= 1)

    @classmethod
    def is_valid(cls, predictions: Floats) -> npt.NDArray[np.bool_]:
        """Return which rows have probabilities that add up to 1, bool ``[rows]``."""
        within = cls.fits(predictions).all(1)
        found: npt.NDArray[np.bool_] = within & (np.abs(predictions.sum(1) - 1) <= ROUNDING)
        return found

    @staticmethod
    def constant(scores: Scores) -> Floats:
        """Return the shares of the classes for each row, ``[rows, C]``."""
        counts = np.bincount(scores.labels.astype(np.int64), scores.weight, minlength=scores.predictions.shape[1])
        return np.tile(counts / counts.sum(), (len(scores), 1))

    @staticmethod
    def why_undefined(scores: Scores) -> str:
        """Return why the AUC is undefined."""
        return "every label is the same class"

    @staticmethod
    def effective_clusters(scores: Scores) -> int:
        """Return the number of clusters with rows of other classes than the most frequent one, or all if fewer."""
        codes, count = scores.clusters
        others = scores.labels != np.bincount(scores.labels.astype(np.int64)).argmax() if len(scores) else scores.labels
        return int(min(count, len(np.unique(codes[others])))) if len(scores) else 0
