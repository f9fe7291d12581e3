"""Metrics as lines of text."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from recmtl.callbacks.base import Callback, TrainingContext
from recmtl.evaluate import Metrics
from recmtl.io.display import decimal


class PrintMetrics(Callback):
    """Prints a line per task after each evaluation, with all that was measured.

    Args:
        every: The evaluations between two that are printed.

    Raises:
        ValueError: `every` is below 1.
    """

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"`every` must be at least 1, got {every}")
        self._every = every
        self._evaluations = 0

    def on_evaluation(self, context: TrainingContext, metrics: Mapping[str, Metrics]) -> None:
        """Print the metrics."""
        self._evaluations += 1
        if self._evaluations % self._every == 0:
            where = f"epoch {context.epoch}/{context.epochs} step {context.step}/{context.steps}"
            for task, measured in metrics.items():
                values = (f"{name} {'–' if v is None else decimal(v)}" for name, v in measured.values.items())
                sys.stdout.write(f"{where} · {task}: {', '.join(values)}\n")
            sys.stdout.flush()
