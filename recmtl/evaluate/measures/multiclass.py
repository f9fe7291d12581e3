"""The metrics of multi-class tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.binary import EPSILON, ScoreHistogram, SortedScores, auc_of, ece_of, ratio_of
from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, RowTotals, Scores

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
    of the highest probability of a row. A row of weight w counts like w rows.

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

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K, totals: RowTotals | None = None) -> None:
        super().__init__(scores, names, k, totals)
        self._classes = scores.labels.astype(np.int64)  # [rows]

    def histograms(self, times: Floats | None = None) -> dict[str, ScoreHistogram]:
        """Return the probabilities of each class by its number, and the highest of each row as `confidence`."""
        rows = {str(number): of_class for number, of_class in enumerate(self._by_class if self._needs_order else [])}
        rows |= {"confidence": self._confidence} if "ece" in self._names else {}
        codes = None if times is None else self._scores.clusters[0]
        return {
            key: one.histogram(None if times is None or codes is None else times[codes[one.order]])
            for key, one in rows.items()
        }

    @property
    def _needs_order(self) -> bool:
        return "macro_auc" in self._names

    def sums(self, histograms: Mapping[str, ScoreHistogram], times: Floats | None = None) -> dict[str, Floats]:
        """Return the sums of each metric; `times` as for `Measure`."""
        weight, found = self._weights(times), dict[str, Floats]()
        if self._needs_order:
            classes = range(self._scores.predictions.shape[1])
            found["macro_auc"] = np.concatenate([histograms[str(number)].auc_sums() for number in classes])  # [3C]
        if "logloss" in self._names:
            found["logloss"] = np.array([weight @ self._row_losses, weight.sum()])
        if "accuracy" in self._names:
            found["accuracy"] = np.array([weight @ self._top.labels, weight.sum()])
        return found | ({"ece": histograms["confidence"].ece_sums()} if "ece" in self._names else {})

    @staticmethod
    def value(name: str, sums: Floats) -> float:
        """Return a metric from its sums."""
        if name == "macro_auc":
            defined = [auc for of_class in sums.reshape(-1, 3) if not np.isnan(auc := auc_of(of_class))]
            return float(np.mean(defined)) if defined else float("nan")
        return ece_of(sums) if name == "ece" else ratio_of(sums)

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
    def why_undefined(totals: RowTotals) -> str:
        """Return why the AUC is undefined."""
        return "every label is the same class"

    @staticmethod
    def effective_clusters(scores: Scores) -> int:
        """Return the number of clusters with rows of other classes than the most frequent one, or all if fewer."""
        codes, count = scores.clusters
        others = scores.labels != np.bincount(scores.labels.astype(np.int64)).argmax() if len(scores) else scores.labels
        return int(min(count, len(np.unique(codes[others])))) if len(scores) else 0
