"""Temperature scaling: one factor on all log-odds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import softmax
from torch import Tensor

from recmtl.calibration.base import Floats
from recmtl.calibration.log_odds import EPSILON, LogOddsCalibrator

COLDEST = 1e-3  # temperature: labels that predictions separate would have 0


@dataclass(frozen=True)
class Temperature(LogOddsCalibrator):
    r"""$p' \propto p^{1/T}$ with the lowest log-loss (Guo et al. 2017), of two classes or more.

    One number changes how sure the predictions are, and no order of classes: of two classes $p' = \sigma(\frac1T \log
    \frac{p}{1 - p})$. It cannot mend a rate that is too high or too low for all rows alike, as `Platt` can.

    Args:
        temperature: $T$, above 0; above 1 makes predictions less sure.
        highest: The highest calibrated probability of a binary task, as of `Platt`.
    """

    temperature: float
    kinds = ("binary", "multiclass")

    def __post_init__(self) -> None:
        """Check the number, which may come from a file."""
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"expected a `temperature` above 0, got {self.temperature!r}")
        super().__post_init__()

    @classmethod
    def _fit(cls, predictions: Floats, labels: Floats, weight: Floats) -> Self:
        # the derivative of the log-loss by 1/T rises, and is 0 at the optimum
        weight = weight / weight.sum()
        classes = np.stack([1 - predictions, predictions], 1) if predictions.ndim == 1 else predictions
        logits = np.log(np.clip(classes, EPSILON, 1))  # [rows, C]
        if predictions.ndim == 1:
            own = (1 - labels) * logits[:, 0] + labels * logits[:, 1]
        else:
            own = logits[np.arange(len(logits)), labels.astype(np.int64)]

        def derivative(inverse: float) -> float:
            return float(weight @ ((softmax(inverse * logits, 1) * logits).sum(1) - own))

        if derivative(0.0) >= 0:
            if predictions.ndim == 2:
                raise ValueError("predictions are no surer of the classes of the labels than of the others")
            raise ValueError("predictions are too high or too low throughout, or fall where labels rise: take platt")
        if derivative(1 / COLDEST) <= 0:
            return cls(COLDEST)
        return cls(1 / float(brentq(derivative, 0.0, 1 / COLDEST, xtol=1e-12, rtol=1e-12)))

    def __call__(self, predictions: Tensor) -> Tensor:
        """Return calibrated probabilities."""
        p = predictions.double()
        if p.ndim == 2:
            return torch.softmax(p.clamp(EPSILON, 1).log() / self.temperature, 1)
        p = p.clamp(EPSILON, 1 - EPSILON)
        return ((p.log() - (-p).log1p()) / self.temperature).sigmoid().clamp(max=self.highest)
