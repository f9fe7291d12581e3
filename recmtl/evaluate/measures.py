"""The metrics of one task as functions of how often each cluster of rows counts: once, or as a bootstrap draws them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property

import numpy as np

from recmtl.evaluate.grouped import Averages, K, by_group
from recmtl.evaluate.ranked import Ranked, RankedRows, distinct, ratio
from recmtl.evaluate.scores import Floats, Integers, Scores

METRICS = {  # by kind of task, the main one first
    "binary": ("auc", "logloss", "pr_auc", "ne", "calibration", "ece"),
    "regression": ("mae", "rmse", "r2"),
}
GROUPED = ("gauc", "ndcg@{k}", "recall@{k}")  # of binary tasks whose rows have groups
PROBABILITIES = frozenset({"logloss", "ne", "calibration", "ece"})  # need them; the others, an order alone
INFLATED = frozenset({"ece"})  # by drawing rows with replacement: what the draws give lies above the estimate
LOWER_IS_BETTER = frozenset({"logloss", "ne", "ece", "mae", "rmse"})
FUNCTIONS = {
    "auc": Ranked.auc,
    "logloss": Ranked.logloss,
    "pr_auc": Ranked.pr_auc,
    "ne": Ranked.ne,
    "calibration": Ranked.calibration,
    "ece": Ranked.ece,
}


def metric_names(kind: str, grouped: bool, k: int = K) -> tuple[str, ...]:
    """Name the metrics of a task, the main one first.

    Args:
        kind: Of the task.
        grouped: Whether its rows have groups.
        k: How many rows of a group NDCG and recall look at.
    """
    at_k = tuple(name.format(k=k) for name in GROUPED) if grouped and kind == "binary" else ()
    return METRICS[kind] + at_k


def monitors(kind: str, grouped: bool) -> tuple[str, ...]:
    """Name the metrics of which the highest or the lowest is the best; calibration is best at 1."""
    return tuple(name for name in metric_names(kind, grouped) if name != "calibration")


class BinaryMeasure:
    """The metrics of a binary task, whose rows are sorted once for all that is asked; one that is undefined is NaN.

    Args:
        scores: The rows; their predictions are finite.
        names: What to measure.
        k: How many rows of a group NDCG and recall look at.

    Attributes:
        averages: The metrics within groups; ``None`` where none is asked for.
    """

    def __init__(self, scores: Scores, names: Sequence[str], k: int = K) -> None:
        self._names, self._scores = names, scores
        self.averages: Averages | None = None
        if not set(names) <= set(FUNCTIONS):
            self.averages = Averages(by_group(scores, k, self._rows.order), k)

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Measure.

        Shape:
            - times: ``[clusters]``

        Args:
            times: How often each of the clusters of the rows counts; ``None`` counts each once.
        """
        if times is not None:
            ranked = self._rows.ranked(times[self._clusters])
        else:
            ranked = self._rows.ranked() if self.averages else distinct(self._scores)
        values = {name: FUNCTIONS[name](ranked) for name in self._names if name in FUNCTIONS}
        if self.averages is not None:
            values |= {name: self.averages.average(name, times) for name in self._names if name not in FUNCTIONS}
        return values

    @cached_property
    def _rows(self) -> RankedRows:
        return RankedRows(self._scores)

    @cached_property
    def _clusters(self) -> Integers:
        """The clusters of the rows, by prediction ``[rows]``."""
        codes, _ = self._scores.clusters()
        return codes[self._rows.order]


class RegressionMeasure:
    """The metrics of a regression; one that is undefined is NaN.

    Args:
        scores: The rows; their predictions are finite.
        names: What to measure.
    """

    def __init__(self, scores: Scores, names: Sequence[str]) -> None:
        self._names, self._scores = names, scores
        self._weight = np.ones(len(scores)) if scores.weight is None else scores.weight
        self._errors = scores.predictions - scores.labels

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Measure; `times` as for a binary task."""
        weight, labels = self._weight, self._scores.labels
        if times is not None:
            weight = weight * times[self._clusters]
        total = weight.sum()
        squares = weight @ self._errors**2
        values = {"mae": ratio(weight @ np.abs(self._errors), total), "rmse": ratio(squares, total) ** 0.5}
        counted = labels[weight > 0]
        spread = weight @ (labels - ratio(weight @ labels, total)) ** 2 if len(counted) and np.ptp(counted) else 0.0
        values["r2"] = 1 - ratio(squares, spread)
        return {name: values[name] for name in self._names}

    @cached_property
    def _clusters(self) -> Integers:
        codes, _ = self._scores.clusters()
        return codes


def measure_of(scores: Scores, names: Sequence[str], k: int = K) -> BinaryMeasure | RegressionMeasure:
    """Make what measures a task, without the metrics that `refusals` names."""
    if scores.task.kind == "regression":
        return RegressionMeasure(scores, names)
    return BinaryMeasure(scores, names, k)


def chosen(scores: Scores, names: Collection[str] | None, k: int = K) -> tuple[str, ...]:
    """Name those of the metrics of a task that are asked for, the main one first; ``None`` asks for all."""
    known = metric_names(scores.task.kind, scores.groups is not None, k)
    return known if names is None else tuple(name for name in known if name in names)


def refusals(scores: Scores, names: Sequence[str]) -> dict[str, str]:
    """Say which metrics cannot be measured, and why: there are no rows, or the predictions are not what they need."""
    rows = len(scores)
    if rows == 0:
        return dict.fromkeys(names, "no row has a label")
    wrong = int((~np.isfinite(scores.predictions)).sum())
    if wrong:
        return dict.fromkeys(names, f"{wrong} of {rows} predictions are not finite")
    if scores.task.kind == "regression":
        return {}
    wrong = int(((scores.predictions < 0) | (scores.predictions > 1)).sum())
    needed = [name for name in names if name in PROBABILITIES]
    return dict.fromkeys(needed, f"{wrong} of {rows} predictions are not in [0, 1]") if wrong else {}
