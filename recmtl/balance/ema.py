"""Exponential moving averages."""

import math

import torch
from torch import Tensor


def bias_corrected(average: Tensor, beta: float, updates: Tensor) -> Tensor:
    """Return an average that started at 0, divided by 1 − βᵗ; 0 before its first update.

    1 − βᵗ is computed with `expm1`: at β = 0.999 the plain difference would lose half of float32's digits.
    """
    if beta == 0.0:
        return average
    exponent = updates.clamp(min=1).to(average.dtype) * math.log(beta)
    return average / -torch.expm1(exponent)
