"""Platt scaling: a line on the log-odds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import expit
from torch import Tensor

from recmtl.calibration.base import Floats
from recmtl.calibration.log_odds import EPSILON, LogOddsCalibrator, log_odds

STEPS, TOLERANCE = 100, 1e-12  # of Newton's method
HALVINGS = 40  # of a step that does not lower the loss


@dataclass(frozen=True)
class Platt(LogOddsCalibrator):
    r"""$p' = \sigma(a \log \frac{p}{1 - p} + b)$ with the lowest log-loss (Platt 1999), on log-odds as scores.

    As in the paper, labels are drawn to the middle by one row each: with $N_+$ positives and $N_-$ negatives they are
    $(N_+ + 1) / (N_+ + 2)$ and $1 / (N_- + 2)$. Weights count relative to their mean.

    Rows predicted as 1 do not count for the line: see `highest`.

    Args:
        slope: $a$, above 0.
        intercept: $b$.
        highest: The highest calibrated probability: the mean label of the rows predicted as 1, such as conditional
            rates that were lowered to it, and of those that the line places above that mean.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        """Check the numbers, which may come from a file."""
        if not (math.isfinite(self.slope) and math.isfinite(self.intercept) and self.slope > 0):
            raise ValueError(f"expected a `slope` above 0 and an `intercept`, got {self.slope!r}, {self.intercept!r}")
        super().__post_init__()

    @classmethod
    def _fit(cls, predictions: Floats, labels: Floats, weight: Floats) -> Self:
        weight, scores = weight / weight.mean(), log_odds(predictions)
        positive = float(weight @ labels)
        high, low = (positive + 1) / (positive + 2), 1 / (weight.sum() - positive + 2)
        targets = labels * high + (1 - labels) * low
        center, scale = float(np.average(scores, weights=weight)), float(scores.std()) or 1.0
        inputs = np.stack([(scores - center) / scale, np.ones(len(scores))])  # [2, rows]
        found = _newton(inputs, targets, weight)
        slope = float(found[0]) / scale
        if slope <= 0:
            raise ValueError("predictions fall where labels rise, so that their order would be reversed")
        return cls(slope, float(found[1]) - slope * center)

    def __call__(self, predictions: Tensor) -> Tensor:
        """Return calibrated probabilities."""
        p = predictions.double().clamp(EPSILON, 1 - EPSILON)
        return (self.slope * (p.log() - (-p).log1p()) + self.intercept).sigmoid().clamp(max=self.highest)


def _newton(inputs: Floats, targets: Floats, weight: Floats) -> Floats:
    """Return the coefficients ``[2]`` of a logistic regression with targets in [0, 1]."""

    def loss(coefficients: Floats) -> float:
        logits = coefficients @ inputs
        return float(weight @ (np.logaddexp(0, logits) - targets * logits))

    found, rows = np.zeros(2), weight.sum()
    for _ in range(STEPS):
        p = expit(found @ inputs)
        gradient = inputs @ (weight * (p - targets))
        hessian = (inputs * (weight * p * (1 - p))) @ inputs.T + TOLERANCE * rows * np.eye(2)
        step, before = np.linalg.solve(hessian, gradient), loss(found)
        for _ in range(HALVINGS):
            if loss(found - step) <= before:
                break
            step = step / 2
        found = found - step
        if np.abs(gradient).max() <= TOLERANCE * rows:
            break
    return found
