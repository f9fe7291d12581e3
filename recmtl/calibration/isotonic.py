"""Isotonic regression of labels on predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from recmtl.calibration.base import Calibrator, Floats

APART = 1e-9  # that two knots are at least: closer predictions differ by rounding


@dataclass(frozen=True)
class Isotonic(Calibrator):
    r"""The rising function with the least squared error, interpolated between the centres of its blocks.

    Pool-adjacent-violators (Zadrozny & Elkan 2002) merges neighbours in the order of the predictions into blocks whose
    mean labels rise. Between the blocks' weighted mean predictions the function is linear, as in centered isotonic
    regression (Oron & Flournoy 2017), so that predictions keep their order; it goes on to (0, 0) and (1, 1), but not
    beyond the block of a prediction of 0 or 1.

    Note:
        A lowest block without a positive, of weight n, gets $\bar y / (n + 1)$ instead of 0, as with one more row of
        the mean label $\bar y$; a highest block without a negative likewise. One row that differs would otherwise cost
        an infinite log-loss. Weights count relative to their mean.

    Args:
        x: The predictions at the knots, ascending.
        y: The calibrated probabilities there, ascending.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    fewest = 50

    def __post_init__(self) -> None:
        """Check the knots, which may come from a file."""
        x, y = np.array(self.x, float), np.array(self.y, float)
        within = ((x >= 0) & (x <= 1)).all() and ((y >= 0) & (y <= 1)).all()
        if len(x) != len(y) or len(x) < 2 or not within or (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
            raise ValueError("expected as many ascending `x` as `y`, in [0, 1]")
        object.__setattr__(self, "x", tuple(x.tolist()))
        object.__setattr__(self, "y", tuple(y.tolist()))

    @classmethod
    def fit(cls, predictions: Floats, labels: Floats, weight: Floats) -> Self:
        """Fit on rows."""
        from sklearn.isotonic import IsotonicRegression  # takes a second, and few processes fit one

        weight = weight / weight.mean()
        fitted = IsotonicRegression().fit(predictions, labels, weight).predict(predictions)
        _, blocks = np.unique(fitted, return_inverse=True)
        total = np.bincount(blocks, weight)
        x, y = np.bincount(blocks, weight * predictions) / total, np.bincount(blocks, weight * labels) / total
        mean = float(np.average(labels, weights=weight))
        if y[0] <= 0:
            y[0] = min(mean / (total[0] + 1), *y[1:2])
        if y[-1] >= 1:
            y[-1] = max((total[-1] + mean) / (total[-1] + 1), *y[-2:-1])
        inner = (x > APART) & (x < 1 - APART)
        low, high = predictions.min(), predictions.max()
        ends = (0.0 if low > APART else y[0]), (1.0 if high < 1 - APART else y[-1])
        x, y = np.r_[0.0, x[inner], 1.0], np.r_[ends[0], y[inner], ends[1]]
        apart = np.r_[True, np.diff(x) > APART]
        return cls(tuple(x[apart]), tuple(np.clip(y[apart], 0, 1)))

    def __call__(self, predictions: Tensor) -> Tensor:
        """Return calibrated probabilities. The segment is found by halving, in operators that ONNX has."""
        p = predictions.double()
        x, y = (p.new_tensor(knots) for knots in (self.x, self.y))  # [K]
        steps = (len(self.x) - 1).bit_length()
        bounds = torch.cat([x[:-1], p.new_full(((1 << steps) - len(self.x) + 1,), 2.0)])  # [2^steps], 2 is above all
        segment = torch.zeros_like(p, dtype=torch.int64)
        for step in (1 << power for power in reversed(range(steps))):
            segment = torch.where(p >= bounds[segment + step], segment + step, segment)
        share = (p - x[segment]) / (x[segment + 1] - x[segment])
        return y[segment] + share.clamp(0, 1) * (y[segment + 1] - y[segment])
