"""The metrics of amounts: counts, durations, money."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from recmtl.evaluate.binary import EPSILON, block_starts, block_sums, ratio
from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, Integers, Scores


class AmountMeasure(Measure):
    """Computes metrics of an amount, which is at least 0.

    `gini` says how well rows are ordered: 2·Σ y·F / Σ y − 1, where F is the share of the weight below a row and half of
    that at its prediction, over the same with the rows in the order of their labels; 1 is the best order, 0 chance, and
    with labels of 0 and 1 it is 2·AUC − 1. `poisson_deviance` is the mean of 2·(y·log(y/p) − y + p), `calibration` the
    sum of the predictions over that of the labels; `rmse` and `mae` are in the unit of the label.
    """

    title = "Amounts"
    metrics = ("gini", "poisson_deviance", "rmse", "mae", "calibration")
    monitor, fallback, ties = "gini", "poisson_deviance", "poisson_deviance"
    fast = frozenset({"gini", "poisson_deviance"})
    by_domain = ("gini", "poisson_deviance", "calibration")
    needs_valid = frozenset({"poisson_deviance", "calibration"})
    expected, valid = "a number of at least 0", "numbers of at least 0"

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K) -> None:
        super().__init__(scores, names, k)
        self._orders: dict[str, tuple[Integers, Integers]] = {}  # rows in order, and where ties start

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Compute the metrics; `times` as for `Measure`."""
        return {name: getattr(self, f"_{name}")(times) for name in self._names}

    def _gini(self, times: Floats | None) -> float:
        best = self._ordered("labels", times)
        return ratio(self._ordered("predictions", times), best if best > EPSILON else 0.0)

    def _ordered(self, key: str, times: Floats | None) -> float:
        """Return 2·Σ w·y·F / Σ w·y − 1 with the rows in the order of predictions or of labels."""
        if key not in self._orders:
            values: Floats = getattr(self._scores, key)
            order = np.argsort(values)
            self._orders[key] = order, block_starts(values[order])
        order, starts = self._orders[key]
        weight = self._weights(times, order)
        shown, gained = block_sums(weight, starts), block_sums(weight * self._scores.labels[order], starts)
        below = np.cumsum(shown) - shown / 2
        return 2 * ratio(gained @ below, gained.sum() * shown.sum()) - 1

    def _poisson_deviance(self, times: Floats | None) -> float:
        weight, labels = self._weights(times), self._scores.labels
        predicted = np.maximum(self._scores.predictions, EPSILON)
        return 2 * ratio(weight @ (special.xlogy(labels, labels / predicted) - labels + predicted), weight.sum())

    def _rmse(self, times: Floats | None) -> float:
        weight = self._weights(times)
        squares = weight @ (self._scores.predictions - self._scores.labels) ** 2
        return float(np.sqrt(ratio(squares, weight.sum())))

    def _mae(self, times: Floats | None) -> float:
        weight = self._weights(times)
        return ratio(weight @ np.abs(self._scores.predictions - self._scores.labels), weight.sum())

    def _calibration(self, times: Floats | None) -> float:
        weight = self._weights(times)
        return ratio(weight @ self._scores.predictions, weight @ self._scores.labels)

    @staticmethod
    def fits(column: Floats) -> npt.NDArray[np.bool_]:
        """Return which rows have a finite prediction of at least 0, bool ``[rows]``."""
        return np.isfinite(column) & (column >= 0)

    @staticmethod
    def why_undefined(scores: Scores) -> str:
        """Return why the order or the calibration is undefined."""
        return "every label is 0" if not scores.labels.any() else "every label is the same"

    @staticmethod
    def effective_clusters(scores: Scores) -> int:
        """Return the number of clusters with a label above 0."""
        return len(np.unique(scores.clusters[0][scores.labels > 0]))
