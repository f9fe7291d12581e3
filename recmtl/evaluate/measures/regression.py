"""The metrics of regressions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from recmtl.evaluate.binary import ScoreHistogram, ratio, ratio_of
from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, RowTotals, Scores


class RegressionMeasure(Measure):
    """Computes metrics of a regression: mean absolute error, root of the mean squared error, and R²."""

    title = "Regression tasks"
    metrics = ("mae", "rmse", "r2")
    monitor, fallback = "r2", "rmse"
    fast = frozenset(metrics)
    by_domain = ("rmse", "r2")

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K, totals: RowTotals | None = None) -> None:
        super().__init__(scores, names, k, totals)
        self._errors = scores.predictions - scores.labels

    def sums(self, histograms: Mapping[str, ScoreHistogram], times: Floats | None = None) -> dict[str, Floats]:
        """Return the sums of each metric; `times` as for `Measure`."""
        weight = self._weights(times)
        total = weight.sum()
        squares = weight @ self._errors**2
        return {
            "mae": np.array([weight @ np.abs(self._errors), total]),
            "rmse": np.array([squares, total]),
            "r2": np.array([squares, self._spread(weight)]),
        }

    def _spread(self, weight: Floats) -> float:
        """Return the squared distances of the labels from the mean of all rows, summed by weight."""
        labels, totals = self._scores.labels, self._totals
        if totals is not None:
            return 0.0 if totals.constant else float(weight @ (labels - totals.mean) ** 2)
        counted = labels[weight > 0]
        varies = len(counted) and np.ptp(counted)
        return float(weight @ (labels - ratio(weight @ labels, weight.sum())) ** 2) if varies else 0.0

    @staticmethod
    def value(name: str, sums: Floats) -> float:
        """Return a metric from its sums."""
        mean = ratio_of(sums)
        return {"rmse": math.sqrt(mean), "r2": 1 - mean}.get(name, mean)

    @staticmethod
    def why_undefined(totals: RowTotals) -> str:
        """Return why R² is undefined."""
        return "every label is the same"
