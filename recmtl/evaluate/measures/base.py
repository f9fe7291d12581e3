"""The base of measures: what a kind of task has for metrics, and how they are computed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.binary import ScoreHistogram
from recmtl.evaluate.ranking import Averages, K
from recmtl.evaluate.scores import Floats, Integers, RowTotals, Scores


class Measure(ABC):
    """Computes metrics of one task with finite predictions; undefined metrics are NaN.

    A metric is a function (`value`) of sums over rows (`sums`), some of which need histograms of the rows in order
    (`histograms`). So rows may be measured in parts: the sums of the parts add up to those of all rows, if histograms
    are cut between distinct values, and groups are not cut.

    Attributes:
        title: What tables call tasks of the kind.
        metrics: The names of the metrics, the main one first.
        grouped: Those of rows with groups, with the place ``{k}`` of the cutoff.
        monitor: The metric that decides by default which weights are best.
        fallback: The one that decides if `monitor` was never defined; of it a lower value is better.
        ties: The one that decides between equal values of `monitor`, a lower value being better; or ``None``.
        fast: The metrics to take while training.
        by_domain: The metrics to show by domain.
        needs_valid: The metrics that need predictions that are `valid`.
        expected: What a column of predictions holds, in words.
        valid: What valid predictions are, in words.
        left_out: What the rows of a group have that is left out of grouped metrics.
        averages: The averages of grouped metrics; ``None`` if none is measured.

    Args:
        scores: The rows.
        names: The metrics.
        k: The cutoff of NDCG and recall.
        totals: The totals of all rows, if these are a part of them.
    """

    title: ClassVar[str]
    metrics: ClassVar[tuple[str, ...]]
    grouped: ClassVar[tuple[str, ...]] = ()
    monitor: ClassVar[str]
    fallback: ClassVar[str]
    ties: ClassVar[str | None] = None
    fast: ClassVar[frozenset[str]]
    by_domain: ClassVar[tuple[str, ...]]
    needs_valid: ClassVar[frozenset[str]] = frozenset()
    expected: ClassVar[str] = "a number"
    valid: ClassVar[str] = "finite"
    left_out: ClassVar[str] = "one class alone"

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K, totals: RowTotals | None = None) -> None:
        self._scores, self._names, self._k, self._totals = scores, names, k, totals
        self.averages: Averages | None = None

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Compute the metrics; `times` is how often each cluster of rows counts, ``[clusters]``."""
        sums = self.sums(self.histograms(times), times)
        return {name: self.value(name, sums[name]) for name in self._names}

    def histograms(self, times: Floats | None = None) -> dict[str, ScoreHistogram]:
        """Return the rows in the orders that the metrics need, by what they are sorted by."""
        return {}

    @abstractmethod
    def sums(self, histograms: Mapping[str, ScoreHistogram], times: Floats | None = None) -> dict[str, Floats]:
        """Return by metric the sums over rows that it is a function of."""

    @staticmethod
    @abstractmethod
    def value(name: str, sums: Floats) -> float:
        """Return a metric from its sums over all rows."""

    @staticmethod
    def fits(column: Floats) -> npt.NDArray[np.bool_]:
        """Return which rows of a column of predictions hold what one may hold, bool ``[rows]``."""
        return np.isfinite(column)

    @classmethod
    def is_valid(cls, predictions: Floats) -> npt.NDArray[np.bool_]:
        """Return which rows have valid predictions, bool ``[rows]``: of one column, those that fit."""
        return cls.fits(predictions)

    @staticmethod
    def constant(scores: Scores) -> Floats:
        """Return the best prediction that is the same for all rows, of one row or more: the mean label."""
        return np.full(len(scores), np.average(scores.labels, weights=scores.weight))

    @staticmethod
    def positives(totals: RowTotals) -> int | None:
        """Return the number of positives; ``None`` if the kind has none."""
        return None

    @staticmethod
    @abstractmethod
    def why_undefined(totals: RowTotals) -> str:
        """Return why a metric is undefined for labels of these totals."""

    @staticmethod
    def effective_clusters(scores: Scores) -> int:
        """Return the number of clusters by which bootstrap intervals are widened."""
        return scores.clusters[1]

    @cached_property
    def _weight(self) -> Floats:
        return np.ones(len(self._scores)) if self._scores.weight is None else self._scores.weight

    def _weights(self, times: Floats | None, order: Integers | slice = slice(None)) -> Floats:
        """Return how much each row counts, ``[rows]``, in an order."""
        weight = self._weight[order]
        return weight if times is None else weight * times[self._scores.clusters[0][order]]
