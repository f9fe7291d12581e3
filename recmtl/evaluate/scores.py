"""What one task predicted, beside its labels: what every metric, interval and test takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recmtl.schema import Task

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """What one task predicted, on the rows that count for it.

    Shape:
        - labels, predictions, weight, groups: ``[rows]``, without missing values

    Args:
        task: The task.
        labels: 0 or 1, or the values of a regression.
        predictions: Probabilities, or the values of a regression.
        weight: Of each row, above 0; ``None`` where all count alike.
        groups: A number for the group of each row; ``None`` where the schema has no group.
        capped: How many probabilities of a derived CVR were capped at 1; ``None`` where it was predicted directly.
    """

    task: Task
    labels: Floats
    predictions: Floats
    weight: Floats | None = None
    groups: Integers | None = None
    capped: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def clusters(self) -> tuple[Integers, int]:
        """Number the clusters of rows that are independent of each other: the groups in their order, or else the rows.

        Shape:
            - first of the two: ``[rows]``

        Returns:
            The number of each row's cluster, from 0 without gaps, and how many there are.
        """
        if self.groups is None:
            return np.arange(len(self)), len(self)
        found, codes = np.unique(self.groups, return_inverse=True)
        return codes, len(found)


def scores_of(
    task: Task,
    labels: Floats,
    predictions: Floats,
    weight: Floats | None = None,
    groups: Integers | None = None,
    capped: npt.NDArray[np.bool_] | None = None,
) -> Scores:
    """Take the rows that count: those with a label and a weight above 0.

    Shape:
        - labels, predictions, weight, groups, capped: ``[rows]``; NaN in labels: the row does not count
    """
    rows = ~np.isnan(labels) if weight is None else ~np.isnan(labels) & (weight > 0)
    return Scores(
        task,
        labels[rows],
        predictions[rows],
        None if weight is None else weight[rows],
        None if groups is None else groups[rows],
        None if capped is None else int(capped[rows].sum()),
    )
