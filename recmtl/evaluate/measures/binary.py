"""The metrics of binary tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.binary import ScoreHistogram, SortedScores, score_histogram
from recmtl.evaluate.delong import Clusters
from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.ranking import Averages, K, by_group
from recmtl.evaluate.scores import Floats, Integers, Scores

FUNCTIONS = {
    "auc": ScoreHistogram.auc,
    "logloss": ScoreHistogram.logloss,
    "pr_auc": ScoreHistogram.pr_auc,
    "ne": ScoreHistogram.ne,
    "calibration": ScoreHistogram.calibration,
    "ece": ScoreHistogram.ece,
}


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

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K) -> None:
        super().__init__(scores, names, k)
        if not set(names) <= set(FUNCTIONS):
            self.averages = Averages(by_group(scores, k, self._rows.order), k)

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Compute the metrics; `times` as for `Measure`."""
        if times is not None:
            histogram = self._rows.histogram(times[self._clusters])
        else:
            histogram = self._rows.histogram() if self.averages else score_histogram(self._scores)
        values = {name: FUNCTIONS[name](histogram) for name in self._names if name in FUNCTIONS}
        if self.averages is not None:
            values |= {name: self.averages.average(name, times) for name in self._names if name not in FUNCTIONS}
        return values

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
    def positives(scores: Scores) -> int:
        """Return the number of positives, to which soft labels add up."""
        return scores.positives

    @staticmethod
    def why_undefined(scores: Scores) -> str:
        """Return why a metric is undefined: there is one class alone, in all rows or in each group."""
        rows, positives = len(scores), scores.labels.sum()
        if positives in (0, rows):
            return f"every one of the {rows} labels is {int(positives > 0)}"
        return "no group has both classes"

    @staticmethod
    def effective_clusters(scores: Scores) -> int:
        """Return the number of clusters with positives or with negatives, whichever are fewer."""
        clusters = Clusters.of(scores)
        return int(min(clusters.positive.sum(), clusters.negative.sum()))
