"""Calibrators that are functions of log-odds, and what they make of predictions of 1, which have none."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import numpy.typing as npt
import torch

from recmtl.calibration.base import Calibrator, Floats

EPSILON = float(np.finfo(np.float64).eps)  # probabilities are taken as at least this far from 0 and 1


@dataclass(frozen=True)
class LogOddsCalibrator(Calibrator):
    """A function of log-odds, fitted on the rows that are predicted below 1.

    A prediction of 1 is a conditional rate that was lowered to it, or rounded: a few such rows with negative labels
    would make the function flat for all others. If there are too few positives or negatives below 1, all rows count.

    Args:
        highest: The highest calibrated probability: the mean label of the rows predicted as 1, and of those that the
            function places above that mean.
    """

    highest: float = field(default=1.0, kw_only=True)
    fewest = 10

    def __post_init__(self) -> None:
        """Check the number, which may come from a file."""
        if not 0 < self.highest <= 1:
            raise ValueError(f"expected a `highest` probability above 0, got {self.highest!r}")

    @classmethod
    def fit(cls, predictions: Floats, labels: Floats, weight: Floats) -> Self:
        """Fit on rows, see `Calibrator.fit`."""
        if predictions.ndim == 2:
            return cls._fit(predictions, labels, weight)
        below: npt.NDArray[np.bool_] = predictions < 1
        positives = float(labels[below].sum())
        used = below if min(positives, below.sum() - positives) >= cls.fewest else np.ones(len(below), bool)
        found = cls._fit(predictions[used], labels[used], weight[used])
        calibrated = found(torch.from_numpy(predictions)).numpy()
        return replace(found, highest=_highest_value(calibrated, used, labels, weight))

    @classmethod
    @abstractmethod
    def _fit(cls, predictions: Floats, labels: Floats, weight: Floats) -> Self:
        """Fit on rows whose log-odds are finite; arguments are those of `fit`."""


def log_odds(probabilities: Floats) -> Floats:
    """Return log-odds of probabilities, those of 0 and 1 within 2⁻⁵² of them."""
    clipped = np.clip(probabilities, EPSILON, 1 - EPSILON)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _highest_value(calibrated: Floats, used: npt.NDArray[np.bool_], labels: Floats, weight: Floats) -> float:
    """Return above which value no row is predicted, given what a function makes of all rows ``[rows]``.

    It is the mean label of the rows that it was not fitted on, joined with those of higher values than that mean, as in
    isotonic regression; 1 if it was fitted on all rows.
    """
    if used.all():
        return 1.0
    order = np.lexsort((-calibrated, used))
    means = np.cumsum((weight * labels)[order]) / np.cumsum(weight[order])
    following = np.append(calibrated[order][1:], 0.0)
    last = int((~used).sum()) - 1
    last += int(np.argmax(means[last:] >= following[last:]))
    return float(means[last])
