"""How the learning rate changes over a training."""

from __future__ import annotations

import math
from collections.abc import Callable

from recmtl.train.options import Schedule


def learning_rate_factor(schedule: Schedule, warmup: float, total_steps: int) -> Callable[[int], float]:
    """Give the factor on the learning rate at each step.

    Args:
        schedule: ``constant``, ``linear`` or ``cosine``; the last two fall to 0 at the end.
        warmup: The share of all steps in which the factor rises linearly from near 0 to 1 first.
        total_steps: The number of steps of all epochs.
    """
    warm = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        progress = min(1.0, (step - warm) / max(1, total_steps - warm))
        return {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[schedule]

    return factor
