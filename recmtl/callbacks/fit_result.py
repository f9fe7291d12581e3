"""The result of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class FitResult:
    """The result of a training.

    Args:
        best: The best value of the monitored metric; ``None`` if it was never defined, or left out a monitored task
            whose predictions were never finite.
        seconds: Wall-clock seconds, with evaluations.
        rows_per_second: Training rows per second, without evaluations.
        batch_size: Rows per step.
        window: The training rows held in memory at a time; ``None`` if all were.
        skipped: How often a task's loss or shared gradient was not finite and left out, by its name; and under
            `gradients`, the number of tensors that had non-finite entries set to 0. Names without any are missing.
        records: What was logged: the lines of `metrics.jsonl`.
        stopped: Why training ended before its last epoch; ``None`` if it did not.
        optimizers: The states of the optimizers at the end, if there is no run folder that holds them.
    """

    best: float | None = None
    seconds: float = 0.0
    rows_per_second: float = 0.0
    batch_size: int = 0
    window: int | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    records: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    stopped: str | None = None
    optimizers: Mapping[str, Any] = field(default_factory=dict, repr=False)
