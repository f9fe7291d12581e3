"""A measure of a task with metrics of your own beside those of its kind."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recmtl.evaluate.measures.base import Measure
from recmtl.evaluate.own_metrics import OwnMetric
from recmtl.evaluate.ranking import K
from recmtl.evaluate.scores import Floats, Integers, Scores


class OwnMeasure:
    """Computes own metrics of one task; undefined ones are NaN.

    Args:
        scores: The rows.
        metrics: The metrics.

    Attributes:
        reasons: Why metrics of all rows were undefined, by their names.
    """

    def __init__(self, scores: Scores, metrics: Sequence[OwnMetric]) -> None:
        self._scores, self._metrics = scores, metrics
        self.reasons: dict[str, str] = {}

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Compute the metrics; `times` is how often each cluster of rows is drawn, whole numbers ``[clusters]``.

        A row that is drawn twice stands in the rows twice, and a group drawn twice is two groups: so a function may
        ignore weights and still vary over the draws as it should.
        """
        scores = self._scores
        weight = np.ones(len(scores)) if scores.weight is None else scores.weight
        rows, groups = (None, scores.groups) if times is None else drawn_rows(scores, times)
        predictions, labels = scores.predictions, scores.labels
        if rows is not None:
            predictions, labels, weight = predictions[rows], labels[rows], weight[rows]
        values = {}
        for metric in self._metrics:
            value, reason = metric(predictions, labels, weight, groups)
            values[metric.name] = value if reason is None else np.nan
            if reason is not None and times is None:
                self.reasons[metric.name] = reason
        return values


def drawn_rows(scores: Scores, times: Floats) -> tuple[Integers, Integers | None]:
    """Return the rows of a draw, and their groups if the rows have any."""
    clusters, count = scores.clusters
    often = times[clusters].astype(np.int64)
    rows = np.repeat(np.arange(len(scores)), often)
    if scores.groups is None:
        return rows, None
    copies = np.arange(len(rows)) - np.repeat(np.cumsum(often) - often, often)
    return rows, clusters[rows] + copies * count


class WithOwn:
    """The measure of a kind together with own metrics."""

    def __init__(self, measure: type[Measure], scores: Scores, names: Sequence[str], k: int = K) -> None:
        own = {metric.name: metric for metric in scores.own}
        self._names = names
        self._kind = measure(scores, [name for name in names if name not in own], k)
        self._own = OwnMeasure(scores, [own[name] for name in names if name in own])
        self.averages = self._kind.averages

    @property
    def reasons(self) -> dict[str, str]:
        """Why own metrics of all rows were undefined, by their names."""
        return self._own.reasons

    def __call__(self, times: Floats | None = None) -> dict[str, float]:
        """Compute the metrics; `times` as for `Measure`."""
        values = self._kind(times) | self._own(times)
        return {name: values[name] for name in self._names if name in values}
