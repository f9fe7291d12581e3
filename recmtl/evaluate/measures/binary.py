"""The metrics of binary tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.binary import (
    ScoreHistogram,
    SortedScores,
    auc_of,
    ece_of,
    logloss_of,
    ne_of,
    pr_auc_of,
    ratio_of,
    score_histogram,
)
from recmtl.evaluate.delong import Clusters
from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.ranking import Averages, K, by_group
from recmtl.evaluate.scores import Floats, Integers, RowTotals, Scores

FUNCTIONS: Mapping[str, tuple[Callable[[ScoreHistogram], Floats], Callable[[Floats], float]]] = {
    "auc": (ScoreHistogram.auc_sums, auc_of),
    "logloss": (ScoreHistogram.logloss_sums, logloss_of),
    "pr_auc": (ScoreHistogram.pr_auc_sums, pr_auc_of),
    "ne": (ScoreHistogram.logloss_sums, ne_of),
    "calibration": (ScoreHistogram.calibration_sums, ratio_of),
    "ece": (ScoreHistogram.ece_sums, ece_of),
}  # the sums over rows of each metric, and the metric of these


class BinaryMeasure(Measure):
    """Computes metrics of a binary task, sorting its rows once."""

    title = "Binary tasks"
    metrics = tuple(FUNCTIONS)
    grouped = ("gauc", "ndcg@{k}", "recall@{k}")
    monitor, fallback, ties = "auc", "logloss", "logloss"
    fast = frozenset({"auc", "logloss"})
    by_domain = ("auc", "logloss", "calibration")
    needs_valid = frozenset({"logloss", "ne", "calibration", "ece"})
    expected, valid = "a probability in [0, 1]", "in [0, 1]"

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K, totals: RowTotals | None = None) -> None:
        super().__init__(scores, names, k, totals)
        if not set(names) <= set(FUNCTIONS):
            self.averages = Averages(by_group(scores, k, self._rows.order), k)

    def histograms(self, times: Floats | None = None) -> dict[str, ScoreHistogram]:
        """Return the distinct predictions; `times` as for `Measure`."""
        if not set(self._names) & set(FUNCTIONS):
            return {}
        if times is not None:
            return {"predictions": self._rows.histogram(times[self._clusters])}
        return {"predictions": self._rows.histogram() if self.averages else score_histogram(self._scores)}

    def sums(self, histograms: Mapping[str, ScoreHistogram], times: Floats | None = None) -> dict[str, Floats]:
        """Return the sums of each metric; `times` as for `Measure`."""
        found = {n: FUNCTIONS[n][0](histograms["predictions"]) for n in self._names if n in FUNCTIONS}
        if self.averages is not None:
            found |= {name: self.averages.sums(name, times) for name in self._names if name not in FUNCTIONS}
        return found

    @staticmethod
    def value(name: str, sums: Floats) -> float:
        """Return a metric from its sums; one of groups is an average."""
        return FUNCTIONS[name][1](sums) if name in FUNCTIONS else ratio_of(sums)

    @cached_property
    def _rows(self) -> SortedScores:
        return SortedScores(self._scores)

    @cached_property
    def _clusters(self) -> Integers:
        """The clusters of the rows in the order of predictions ``[rows]``."""
        return self._scores.clusters[0][self._rows.order]

    @staticmethod
    def fits(column: Floats) -> npt.NDArray[np.bool_]:
        """Return which rows of a column hold a probability, bool ``[rows]``."""
        return (column >= 0) & (column <= 1)

    @staticmethod
    def positives(totals: RowTotals) -> int:
        """Return the number of positives, to which soft labels add up."""
        return round(totals.labels)

    @staticmethod
    def why_undefined(totals: RowTotals) -> str:
        """Return why a metric is undefined: there is one class alone, in all rows or in each group."""
        if totals.labels in (0, totals.rows):
            return f"every one of the {totals.rows} labels is {int(totals.labels > 0)}"
        return "no group has both classes"

    @staticmethod
    def effective_clusters(scores: Scores) -> int:
        """Return the number of clusters with positives or with negatives, whichever are fewer."""
        clusters = Clusters.of(scores)
        return int(min(clusters.positive.sum(), clusters.negative.sum()))
