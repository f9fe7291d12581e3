"""What is measured while training: mean losses, rows per second, and the validation metric that decides."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from recmtl.balance.backward import on_host
from recmtl.evaluate import LOWER_IS_BETTER, Metrics, monitors
from recmtl.schema import Task
from recmtl.train.options import EarlyStopping

FAST_METRICS = frozenset({"auc", "logloss", "mae", "rmse", "r2"})


class LossMeter:
    """Averages named losses on the device and measures rows per second, without waiting for the device."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._sum: Tensor | None = None
        self._steps = self._rows = 0
        self._started = time.perf_counter()

    def update(self, losses: Tensor, rows: int) -> None:
        """Add the losses ``[K]`` of a step."""
        self._sum = losses.double() if self._sum is None else self._sum.to(losses.device) + losses
        self._steps += 1
        self._rows += rows

    @property
    def mean(self) -> Tensor | None:
        """The mean losses since the last `reset`, ``[K]`` on their device."""
        return None if self._sum is None else self._sum / self._steps

    def means(self, mean: Tensor | None = None) -> dict[str, float]:
        """Return the mean losses by name, those of `mean` if it was read before. Waits for the device."""
        mean = self.mean if mean is None else mean
        return dict(zip(self._names, [] if mean is None else mean.tolist(), strict=False))

    def reset(self) -> None:
        """Start a new mean."""
        self._sum, self._steps = None, 0

    @property
    def rows_per_second(self) -> float:
        """Rows per second since the start, without the time in `paused` blocks."""
        return self._rows / (time.perf_counter() - self._started)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock within a block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._started += time.perf_counter() - start

    def state_dict(self) -> dict[str, Any]:
        """Return sums, counts and seconds."""
        seconds = time.perf_counter() - self._started
        return {"sum": self._sum, "steps": self._steps, "rows": self._rows, "seconds": seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self._sum, self._steps, self._rows = state["sum"], state["steps"], state["rows"]
        self._started = time.perf_counter() - state["seconds"]


class MetricMonitor:
    """Tracks the best value of one validation metric, for early stopping; a `ValueError` if it is not measured.

    A metric without a task is the mean over the objectives that have it.

    Attributes:
        monitor: The name of the metric.
        names: The metrics to measure while training: the fast ones, and the monitored one.
        best: The best value so far; ``None`` while it was never defined.
        waited: The number of evaluations since then.
    """

    def __init__(
        self, options: EarlyStopping, objectives: Sequence[Task], reported: Sequence[Task], grouped: bool = False
    ) -> None:
        self._options = options
        self.monitor = options.monitor or ("auc" if any(t.kind == "binary" for t in objectives) else "r2")
        name, _, metric = self.monitor.rpartition(".")
        tasks = [task for task in reported if task.name == name] if name else objectives
        if not tasks:
            names = ", ".join(task.name for task in reported)
            raise ValueError(f"`monitor` must name one of the tasks {names}, got {self.monitor!r}")
        self._tasks = [task.name for task in tasks if metric in monitors(task.kind, grouped)]
        if not self._tasks:
            known = ", ".join(dict.fromkeys(m for task in tasks for m in monitors(task.kind, grouped)))
            raise ValueError(f"`monitor` must name one of the metrics {known}, got {self.monitor!r}")
        self._metric = metric
        self.names = FAST_METRICS | {metric}
        self._sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        self.best: float | None = None
        self.waited = 0

    def value(self, metrics: Mapping[str, Metrics]) -> float | None:
        """Return the mean over the tasks for which the metric is defined; ``None`` if there is none."""
        values = [metrics[task].values[self._metric] for task in self._tasks]
        defined = [value for value in values if value is not None]
        return float(sum(defined) / len(defined)) if defined else None

    def update(self, value: float | None) -> bool:
        """Record an evaluation and return whether it is the best so far; an undefined one does not count as waiting."""
        if value is None:
            return False
        if self.best is None or self._sign * (value - self.best) > self._options.min_delta:
            self.best, self.waited = value, 0
            return True
        self.waited += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether the patience has run out."""
        return self._options.patience is not None and self.waited >= self._options.patience

    def state_dict(self) -> dict[str, float | None]:
        """Return the best value and the evaluations since then."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.best, self.waited = state["best"], state["waited"]


def host_copies(values: Mapping[str, Tensor | float | None]) -> dict[str, Any]:
    """Return the tensors of one device in the host's memory, all by one copy; what is no tensor stays as it is.

    The copy is in float64, which holds float32, and counts below 2⁵³, exactly. It is the only wait for the device.
    """
    away = {name: v for name, v in values.items() if isinstance(v, Tensor) and not on_host(v)}
    if not away:
        return dict(values)
    flat = torch.cat([tensor.detach().flatten().double() for tensor in away.values()]).cpu()
    parts = torch.split(flat, [tensor.numel() for tensor in away.values()])
    pairs = zip(away.items(), parts, strict=True)
    return {**values, **{name: part.to(tensor.dtype).view(tensor.shape) for (name, tensor), part in pairs}}


def named_values(names: Sequence[str] | None, values: Tensor | None) -> dict[str, float | None]:
    """Return values by name, ``None`` if one is not finite; nothing if names and values do not match in number."""
    if names is None or values is None or len(names) != len(values):
        return {}
    finite = values.isfinite().tolist()
    return {name: v if ok else None for name, v, ok in zip(names, values.tolist(), finite, strict=True)}
