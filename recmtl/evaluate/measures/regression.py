"""The metrics of regressions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recmtl.evaluate.binary import ratio
from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, Scores


class RegressionMeasure(Measure):
    """Computes metrics of a regression: mean absolute error, root of the mean squared error, and R²."""

    title = "Regression tasks"
    metrics = ("mae", "rmse", "r2")
    monitor, fallback = "r2", "rmse"
    fast = frozenset(metrics)
    by_domain = ("rmse", "r2")

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K) -> None:
        super().__init__(scores, names, k)
        self._errors = scores.predictions - scores.labels

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Compute the metrics; `times` as for `Measure`."""
        weight, labels = self._weights(times), self._scores.labels
        total = weight.sum()
        squares = weight @ self._errors**2
        values = {"mae": ratio(weight @ np.abs(self._errors), total), "rmse": ratio(squares, total) ** 0.5}
        counted = labels[weight > 0]
        spread = weight @ (labels - ratio(weight @ labels, total)) ** 2 if len(counted) and np.ptp(counted) else 0.0
        values["r2"] = 1 - ratio(squares, spread)
        return {name: values[name] for name in self._names}

    @staticmethod
    def why_undefined(scores: Scores) -> str:
        """Return why R² is undefined."""
        return "every label is the same"
