"""Which weights are the best so far, and whether to go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recmtl.evaluate import LOWER_IS_BETTER, Metrics, monitors
from recmtl.schema import Task
from recmtl.train.options import EarlyStopping

QUICK = frozenset({"auc", "logloss", "mae", "rmse", "r2"})


class MetricMonitor:
    """Watches one metric over the evaluations of a training.

    Args:
        options: What is watched, and how patiently.
        objectives: What the model is trained on: a metric without a task is the mean over those of them that have it.
        reported: All tasks that are measured.
        grouped: Whether the rows have groups, within which tasks are measured, too.

    Raises:
        ValueError: The monitor names no task or no metric that is measured.

    Attributes:
        monitor: What is watched.
        names: The metrics that are worth measuring while training: the quick ones, and what is watched.
        best: Its best value so far; ``None`` while it was never defined.
        waited: Evaluations since then.
    """

    def __init__(
        self, options: EarlyStopping, objectives: Sequence[Task], reported: Sequence[Task], grouped: bool = False
    ) -> None:
        self._options = options
        self.monitor = options.monitor or ("auc" if any(t.kind == "binary" for t in objectives) else "r2")
        name, _, metric = self.monitor.rpartition(".")
        chosen = [task for task in reported if task.name == name] if name else objectives
        if not chosen:
            names = ", ".join(task.name for task in reported)
            raise ValueError(f"`monitor` must name one of the tasks {names}, got {self.monitor!r}")
        self._tasks = [task.name for task in chosen if metric in monitors(task.kind, grouped)]
        if not self._tasks:
            known = ", ".join(dict.fromkeys(m for task in chosen for m in monitors(task.kind, grouped)))
            raise ValueError(f"`monitor` must name one of the metrics {known}, got {self.monitor!r}")
        self._metric = metric
        self.names = QUICK | {metric}
        self._sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        self.best: float | None = None
        self.waited = 0

    def value(self, metrics: Mapping[str, Metrics]) -> float | None:
        """Give the watched value, ``None`` where it is undefined for one of its tasks."""
        values = [metrics[task].values[self._metric] for task in self._tasks]
        defined = [value for value in values if value is not None]
        return float(sum(defined) / len(defined)) if len(defined) == len(values) else None

    def improved(self, value: float | None) -> bool:
        """Take an evaluation in and say whether it is the best so far; an undefined one costs no patience."""
        if value is None:
            return False
        if self.best is None or self._sign * (value - self.best) > self._options.min_delta:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    def state_dict(self) -> dict[str, float | None]:
        """Give what was seen so far."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what another one's `state_dict` gave."""
        self.best, self.waited = state["best"], state["waited"]

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self._options.patience is not None and self.waited >= self._options.patience
