"""Exponential averages."""

import math

import torch
from torch import Tensor


def start_corrected(average: Tensor, beta: float, updates: Tensor) -> Tensor:
    """An exponential average that began at 0, divided by 1 − βᵗ; 0 while it has no update.

    1 − βᵗ is formed without cancellation, which at β = 0.999 would cost float32 half of its digits.
    """
    if beta == 0.0:
        return average
    exponent = updates.clamp(min=1).to(average.dtype) * math.log(beta)
    return average / -torch.expm1(exponent)
