"""Labels and predictions of one task: the input of every metric, interval and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.own_metrics import Floats as Floats
from recmtl.evaluate.own_metrics import Integers as Integers
from recmtl.evaluate.own_metrics import OwnMetric
from recmtl.schema import Task


@dataclass(frozen=True)
class Scores:
    """Labels and predictions of one task, on the rows that count for it.

    Shape:
        - labels, predictions, weight, groups: ``[rows]``, without missing values; predictions of a multi-class task:
          ``[rows, C]``

    Args:
        task: The task.
        labels: 0 or 1, the values of a regression, or the numbers of classes. A soft label y between 0 and 1 stands for
            a positive of weight y and a negative of weight 1 − y.
        predictions: Probabilities, or the values of a regression.
        weight: Row weights above 0, times sampling weights; ``None`` if all rows count alike.
        groups: The group number of each row; ``None`` without groups.
        capped: The rows in which a rate of a funnel was lowered, as a step was likelier than the one before it;
            ``None`` for a rate that cannot be.
        sampling_weight: How many rows of a thinned file each row stands for; ``None`` if it was not thinned.
        own: Metrics of the user's own.
    """

    task: Task
    labels: Floats
    predictions: Floats
    weight: Floats | None = None
    groups: Integers | None = None
    capped: int | None = None
    sampling_weight: Floats | None = None
    own: tuple[OwnMetric, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def soft(self) -> bool:
        """Whether a label lies between 0 and 1."""
        return self.task.kind == "binary" and bool(((self.labels > 0) & (self.labels < 1)).any())

    @property
    def positives(self) -> int:
        """The number of positives, to which soft labels add up."""
        return round(float(self.labels.sum()))

    @cached_property
    def clusters(self) -> tuple[Integers, int]:
        """The cluster of each row ``[rows]`` and the number of clusters; clusters are the groups, or the rows.

        Clusters are numbered from 0 in ascending order of the group numbers.
        """
        if self.groups is None:
            return np.arange(len(self)), len(self)
        groups, codes = np.unique(self.groups, return_inverse=True)
        return codes, len(groups)


def scores_of(
    task: Task,
    labels: Floats,
    predictions: Floats,
    weight: Floats | None = None,
    groups: Integers | None = None,
    capped: npt.NDArray[np.bool_] | None = None,
    sampling_weight: Floats | None = None,
    own: tuple[OwnMetric, ...] = (),
) -> Scores:
    """Select the rows that count: those with a label and a weight above 0.

    Shape:
        - labels, predictions, weight, groups, capped, sampling_weight: ``[rows]``; NaN in labels: the row does not
          count
    """
    if sampling_weight is not None:
        weight = sampling_weight if weight is None else weight * sampling_weight
    rows = ~np.isnan(labels) if weight is None else ~np.isnan(labels) & (weight > 0)
    return Scores(
        task,
        labels[rows],
        predictions[rows],
        None if weight is None else weight[rows],
        None if groups is None else groups[rows],
        None if capped is None else int(capped[rows].sum()),
        None if sampling_weight is None else sampling_weight[rows],
        own,
    )


def task_labels(task: Task, labels: Mapping[str, Floats]) -> Floats:
    """Return the labels of a task ``[rows]``; NaN if its condition (`given`) is not met."""
    if task.given is None:
        return labels[task.label]
    return np.where(labels[task.given] == 1, labels[task.label], np.nan)


@dataclass(frozen=True)
class RowTotals:
    """Counts and sums over the rows that count for a task.

    Args:
        rows: The number of rows.
        infinite: The rows whose predictions are not finite.
        invalid: The rows whose predictions are not what their kind of task takes.
        capped: The rows in which a rate of a funnel was lowered.
        labels: The sum of the labels.
        weight: The sum of the weights.
        weighted: The sum of weights times labels.
        low: The lowest label; infinite without rows.
        high: The highest label.
    """

    rows: int
    infinite: int
    invalid: int
    capped: int
    labels: float
    weight: float
    weighted: float
    low: float
    high: float

    @classmethod
    def of(cls, scores: Scores, valid: npt.NDArray[np.bool_]) -> RowTotals:
        """Return those of rows of which some have `valid` predictions ``[rows]``."""
        labels, weight = scores.labels, scores.weight
        finite = np.isfinite(scores.predictions).all(axis=tuple(range(1, scores.predictions.ndim)))
        return cls(
            rows=len(labels),
            infinite=int((~finite).sum()),
            invalid=int((~valid).sum()),
            capped=scores.capped or 0,
            labels=float(labels.sum()),
            weight=float(len(labels) if weight is None else weight.sum()),
            weighted=float(labels.sum() if weight is None else weight @ labels),
            low=float(labels.min(initial=np.inf)),
            high=float(labels.max(initial=-np.inf)),
        )

    def numbers(self) -> Floats:
        """Return the totals as numbers ``[9]``."""
        return np.array([*vars(self).values()], np.float64)

    @classmethod
    def of_parts(cls, numbers: Sequence[Floats]) -> RowTotals:
        """Return the totals of all rows from the `numbers` of each part of them."""
        parts = np.stack(numbers)  # [parts, 9]
        rows, infinite, invalid, capped = parts[:, :4].sum(0).astype(int).tolist()
        labels, weight, weighted = parts[:, 4:7].sum(0).tolist()
        low, high = float(parts[:, 7].min()), float(parts[:, 8].max())
        return cls(rows, infinite, invalid, capped, labels, weight, weighted, low, high)

    @property
    def mean(self) -> float:
        """The mean label, by the weights."""
        return self.weighted / self.weight

    @property
    def constant(self) -> bool:
        """Whether every label is the same."""
        return self.low >= self.high
