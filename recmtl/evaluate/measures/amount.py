"""The metrics of amounts: counts, durations, money."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import special

from recmtl.evaluate.binary import EPSILON, ScoreHistogram, auc_of, block_starts, block_sums, ratio, ratio_of
from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.ranking import Averages, K, by_group
from recmtl.evaluate.scores import Floats, Integers, RowTotals, Scores


class AmountMeasure(Measure):
    """Computes metrics of an amount, which is at least 0.

    `gini` says how well rows are ordered: 2·Σ y·F / Σ y − 1, where F is the share of the weight below a row and half of
    that at its prediction, over the same with the rows in the order of their labels; 1 is the best order, 0 chance, and
    with labels of 0 and 1 it is 2·AUC − 1. `poisson_deviance` is the mean of 2·(y·log(y/p) − y + p), `calibration` the
    sum of the predictions over that of the labels; `rmse` and `mae` are in the unit of the label. NDCG is the mean over
    the groups whose labels differ, and the gain of a row is its label (`by_group`).
    """

    title = "Amounts"
    metrics = ("gini", "poisson_deviance", "rmse", "mae", "calibration")
    grouped = ("ndcg@{k}",)
    monitor, fallback, ties = "gini", "poisson_deviance", "poisson_deviance"
    fast = frozenset({"gini", "poisson_deviance"})
    by_domain = ("gini", "poisson_deviance", "calibration")
    needs_valid = frozenset({"poisson_deviance", "calibration"})
    expected, valid = "a number of at least 0", "numbers of at least 0"
    left_out = "equal labels"

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K, totals: RowTotals | None = None) -> None:
        super().__init__(scores, names, k, totals)
        self._orders: dict[str, tuple[Integers, Integers]] = {}  # rows in order, and where ties start
        if not set(names) <= set(self.metrics):
            self.averages = Averages(by_group(scores, k), k)

    def histograms(self, times: Floats | None = None) -> dict[str, ScoreHistogram]:
        """Return the rows in the order of predictions and of labels: as positives Σ w·y, as negatives Σ w."""
        keys = ("predictions", "labels") if "gini" in self._names else ()
        return {key: self._ordered(key, times) for key in keys}

    def _ordered(self, key: str, times: Floats | None) -> ScoreHistogram:
        values: Floats = getattr(self._scores, key)
        if key not in self._orders:
            order = np.argsort(values)
            self._orders[key] = order, block_starts(values[order])
        order, starts = self._orders[key]
        weight = self._weights(times, order)
        gained = block_sums(weight * self._scores.labels[order], starts)
        return ScoreHistogram(values[order][starts], gained, block_sums(weight, starts))

    def sums(self, histograms: Mapping[str, ScoreHistogram], times: Floats | None = None) -> dict[str, Floats]:
        """Return the sums of each metric; `times` as for `Measure`."""
        orders = {"gini": np.concatenate([h.auc_sums() for h in histograms.values()])} if histograms else {}
        of_rows = {name: getattr(self, f"_{name}") for name in self._names if name != "gini" and name in self.metrics}
        found = {**orders, **{name: sums(self._weights(times)) for name, sums in of_rows.items()}}
        if self.averages is not None:
            found |= {name: self.averages.sums(name, times) for name in self._names if name not in self.metrics}
        return found

    @staticmethod
    def value(name: str, sums: Floats) -> float:
        """Return a metric from its sums."""
        if name == "gini":
            found, best = 2 * auc_of(sums[:3]) - 1, 2 * auc_of(sums[3:]) - 1
            return ratio(found, best if best > EPSILON else 0.0)
        mean = ratio_of(sums)
        return {"poisson_deviance": 2 * mean, "rmse": math.sqrt(mean)}.get(name, mean)

    def _poisson_deviance(self, weight: Floats) -> Floats:
        labels, predicted = self._scores.labels, np.maximum(self._scores.predictions, EPSILON)
        deviance = special.xlogy(labels, labels / predicted) - labels + predicted
        return np.array([weight @ deviance, weight.sum()])

    def _rmse(self, weight: Floats) -> Floats:
        return np.array([weight @ (self._scores.predictions - self._scores.labels) ** 2, weight.sum()])

    def _mae(self, weight: Floats) -> Floats:
        return np.array([weight @ np.abs(self._scores.predictions - self._scores.labels), weight.sum()])

    def _calibration(self, weight: Floats) -> Floats:
        return np.array([weight @ self._scores.predictions, weight @ self._scores.labels])

    @staticmethod
    def fits(column: Floats) -> npt.NDArray[np.bool_]:
        """Return which rows have a finite prediction of at least 0, bool ``[rows]``."""
        return np.isfinite(column) & (column >= 0)

    @staticmethod
    def why_undefined(totals: RowTotals) -> str:
        """Return why the order of all rows or of those of groups, or the calibration, is undefined."""
        if math.isclose(totals.low, totals.high):
            return "every label is the same" if totals.labels else "every label is 0"
        return "no group has different labels"

    @staticmethod
    def effective_clusters(scores: Scores) -> int:
        """Return the number of clusters with a label above 0."""
        return len(np.unique(scores.clusters[0][scores.labels > 0]))
