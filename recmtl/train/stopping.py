"""Which weights are the best so far, and whether to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recmtl.evaluate import LOWER_IS_BETTER, Metrics
from recmtl.train.options import Stopping


class Watch:
    """Watches one metric over the evaluations of a training.

    Args:
        options: What is watched, and how patiently.
        objectives: The names of the model's objectives, over which ``auc`` is a mean.
        reported: The names of all tasks that are measured.

    Raises:
        ValueError: The monitor names no task or no metric that is measured.
    """

    def __init__(self, options: Stopping, objectives: Sequence[str], reported: Sequence[str]) -> None:
        self._options = options
        task, _, metric = options.monitor.rpartition(".")
        if task and task not in reported:
            raise ValueError(f"`monitor` must name one of the tasks {', '.join(reported)}, got {options.monitor!r}")
        self._tasks, self._metric = ([task] if task else list(objectives)), metric
        self._sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        self.best: float | None = None
        self.waited = 0

    def value(self, metrics: Mapping[str, Metrics]) -> float | None:
        """Give the watched value, ``None`` where it is undefined.

        Raises:
            ValueError: The monitor names a metric that none of its tasks has.
        """
        known = [metrics[task].values for task in self._tasks if task in metrics]
        if known and not any(self._metric in values for values in known):
            measured = sorted({name for values in known for name in values})
            raise ValueError(
                f"`monitor` must name one of the metrics {', '.join(measured)}, got {self._options.monitor!r}"
            )
        values = [v[self._metric] for v in known if self._metric in v]
        defined = [v for v in values if v is not None]
        return sum(defined) / len(defined) if defined and len(defined) == len(values) else None

    def improved(self, value: float | None) -> bool:
        """Take an evaluation in and say whether it is the best so far; an undefined one costs no patience."""
        if value is None:
            return False
        if self.best is None or self._sign * (value - self.best) > self._options.min_delta:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self._options.patience is not None and self.waited >= self._options.patience
