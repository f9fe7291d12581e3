"""What is measured while training: mean losses, rows per second, and the validation metric that decides."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recmtl.balance.backward import on_host
from recmtl.data import Rows
from recmtl.evaluate import LOWER_IS_BETTER, MEASURES, Metrics, check_own, metrics_of_task, monitors, own_metrics
from recmtl.evaluate.scores import task_labels
from recmtl.schema import Task
from recmtl.train.options import EarlyStopping

SEVERAL = "+"  # between the metrics of tasks of several kinds
LABELS_AT_ONCE = 1_000_000  # rows
STATE = ("best", "best_logloss", "lowest_loss", "best_defined", "best_missing", "waited", "last")  # of the monitor
FEW_ROWS = {"rows": 100, "positives": 20, "negatives": 20}


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

    A metric without a task is the mean over the objectives that have it; ``auc+r2`` the mean over the objectives of
    their AUC or R². Of two evaluations that rank the rows of binary tasks equally well, the one with the lower log-loss
    is better. A metric that was never defined, such as the AUC of one class, leaves the decision to the mean log-loss,
    and RMSE of regressions. An evaluation that has it for fewer tasks than the best one, as predictions of the others
    are not finite, is no better, and one that has it for more is.

    Attributes:
        monitor: The name of the metric.
        names: The metrics to measure while training: the fast ones, the user's own, and the monitored one.
        tasks: The names of the tasks that are monitored.
        best: The best value so far; ``None`` while it was never defined.
        best_logloss: The mean log-loss of that evaluation, over the monitored binary tasks; ``None`` if it decides no
            tie.
        lowest_loss: The lowest mean loss, as long as the metric was never defined.
        best_defined: The number of tasks that had the metric, or the loss, in that evaluation.
        best_missing: The tasks whose predictions were not finite in that evaluation.
        waited: The number of evaluations since then.
        last: The value of the last evaluation; ``None`` if it was undefined, or left out such a task.
    """

    def __init__(
        self, options: EarlyStopping, objectives: Sequence[Task], reported: Sequence[Task], grouped: bool = False
    ) -> None:
        self._options = options
        kinds = {kind: m for kind, m in MEASURES.items() if any(task.kind == kind for task in objectives)}
        self.monitor = options.monitor or SEVERAL.join(measure.monitor for measure in kinds.values())
        name, _, metric = self.monitor.rpartition(".")
        every = [measure.monitor for measure in MEASURES.values()]
        metrics = metric.split(SEVERAL) if {*metric.split(SEVERAL)} <= {*every} else [metric]
        tasks = [task for task in reported if task.name == name] if name else objectives
        given = own_metrics(options.metrics)
        check_own(given, (*objectives, *reported))
        own = {task.name: {m.name: m for m in metrics_of_task(task, given)} for task in (*objectives, *reported)}
        known_of = {task.name: (*monitors(task.kind, grouped), *own[task.name]) for task in (*objectives, *reported)}
        if not tasks:
            names = ", ".join(task.name for task in reported)
            raise ValueError(f"`monitor` must name one of the tasks {names}, got {self.monitor!r}")
        self._metrics = {t.name: m for t in tasks for m in metrics if m in known_of[t.name]}
        self.tasks = list(self._metrics)
        if not self.tasks:
            known = ", ".join(dict.fromkeys(m for task in tasks for m in known_of[task.name]))
            needs_group = not grouped and any(metric in monitors(task.kind, True) for task in tasks)
            way = ": name the group with `--group COLUMN`, or with `group` in the schema" if needs_group else ""
            raise ValueError(f"`monitor` must name one of the metrics {known}, got {self.monitor!r}{way}")
        self.names = frozenset[str]().union(*(measure.fast for measure in MEASURES.values())) | {*metrics}
        self.names |= {name for of_task in own.values() for name in of_task}
        lower = {m.name for of_task in own.values() for m in of_task.values() if not m.higher_is_better}
        self._sign = -1.0 if metric in LOWER_IS_BETTER | lower else 1.0
        measures = {task.name: MEASURES[task.kind] for task in tasks if task.name in self._metrics}
        self._losses = {name: measure.fallback for name, measure in measures.items()}
        self._ties = {name: measure.ties for name, measure in measures.items() if measure.ties and self._sign > 0}
        self.best: float | None = None
        self.best_logloss: float | None = None
        self.lowest_loss: float | None = None
        self.best_defined = 0
        self.best_missing: list[str] = []
        self.waited = 0
        self.last: float | None = None

    @property
    def higher_is_better(self) -> bool:
        """Whether higher values of the metric are better."""
        return self._sign > 0

    def value(self, metrics: Mapping[str, Metrics]) -> float | None:
        """Return the mean over the tasks for which the metric is defined; ``None`` if there is none."""
        return mean_of_defined([metrics[task].values[metric] for task, metric in self._metrics.items()])

    def logloss(self, metrics: Mapping[str, Metrics]) -> float | None:
        """Return the mean log-loss of the binary tasks whose ranking is monitored; ``None`` if there is none."""
        return mean_of_defined([metrics[task].values[metric] for task, metric in self._ties.items()])

    def loss(self, metrics: Mapping[str, Metrics]) -> float | None:
        """Return the mean loss of the monitored tasks, log-loss or RMSE; ``None`` if there is none."""
        return mean_of_defined([metrics[task].values[metric] for task, metric in self._losses.items()])

    def defined(self, metrics: Mapping[str, Metrics]) -> int:
        """Return for how many tasks the metric is defined, or the loss if it is for none."""
        counts = [sum(metrics[t].values[m] is not None for t, m in of.items()) for of in (self._metrics, self._losses)]
        return counts[0] or counts[1]

    def missing(self, metrics: Mapping[str, Metrics]) -> list[str]:
        """Return the monitored tasks that have rows but no loss, as their predictions are not finite."""
        return [t for t, loss in self._losses.items() if metrics[t].rows and metrics[t].values[loss] is None]

    def update_by(self, metrics: Mapping[str, Metrics]) -> bool:
        """Record an evaluation and return whether it is the best so far, as `update` does."""
        values, missing = (self.value(metrics), self.logloss(metrics), self.loss(metrics)), self.missing(metrics)
        better = self.update(*values, self.defined(metrics))
        if better:
            self.best_missing = missing
        self.last = None if missing else self.last
        return better

    @property
    def best_of_all(self) -> float | None:
        """The best value, if it is that of all monitored tasks: it compares with the values of other trainings."""
        return None if self.best_missing else self.best

    @property
    def decided(self) -> bool:
        """Whether an evaluation was the best, by the metric or by the loss that stands in for it."""
        return self.best is not None or self.lowest_loss is not None

    @property
    def note(self) -> str:
        """What decided which weights are best if the metric was never defined; empty if it was."""
        if self.best_missing:
            lost = ", ".join(self.best_missing)
            return f"the predictions of {lost} were never finite: the weights are those that are best for the others"
        if self.best is not None:
            return ""
        names = {"logloss": "log-loss", "rmse": "RMSE", "poisson_deviance": "Poisson deviance"}
        losses = " and ".join(names[name] for name in dict.fromkeys(self._losses.values()))
        what = f"the weights of the lowest {losses} are kept" if self.decided else "the last weights stay"
        return f"{self.monitor} was never defined on the validation rows: {what}"

    def update(
        self, value: float | None, logloss: float | None = None, loss: float | None = None, defined: int = 0
    ) -> bool:
        """Record an evaluation and return whether it is the best so far; an undefined one does not count as waiting.

        Args:
            value: The monitored metric.
            logloss: What `logloss` returned, which decides if the metric is that of the best evaluation.
            loss: What `loss` returned, which decides as long as the metric was never defined.
            defined: What `defined` returned.
        """
        self.last = value
        if value is None:
            return self.best is None and loss is not None and self._update_loss(loss, defined)
        self.lowest_loss = None
        better = self.best is None or self._sign * (value - self.best) > self._options.min_delta
        if value == self.best and logloss is not None and self.best_logloss is not None:
            better = logloss < self.best_logloss
        if self.best is not None and self.best_defined not in (0, defined):
            better = defined > self.best_defined
        if better:
            self.best, self.best_logloss, self.best_defined = value, logloss, defined
        self.waited = 0 if better else self.waited + 1
        return better

    def _update_loss(self, loss: float, defined: int) -> bool:
        better = self.lowest_loss is None or loss < self.lowest_loss - self._options.min_delta
        if self.best_defined not in (0, defined):
            better = defined > self.best_defined
        if better:
            self.lowest_loss, self.best_defined = loss, defined
        self.waited = 0 if better else self.waited + 1
        return better

    @property
    def exhausted(self) -> bool:
        """Whether the patience has run out."""
        return self._options.patience is not None and self.waited >= self._options.patience

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of the best evaluation and of the last one."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned."""
        for name in STATE:
            setattr(self, name, state[name])


def mean_of_defined(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are defined; ``None`` if there is none."""
    defined = [value for value in values if value is not None]
    return float(sum(defined) / len(defined)) if defined else None


def few_rows_note(tasks: Sequence[Task], labels: Iterable[Mapping[str, npt.NDArray[np.float64]]]) -> list[str]:
    """Return a sentence if a monitored task has too few validation rows to tell good weights from lucky ones.

    Args:
        tasks: The monitored tasks.
        labels: What `label_parts` yields of the validation rows: so many parts as it takes to be enough.
    """
    sums = {task.name: np.zeros(2) for task in tasks}  # of rows and labels
    for part in labels:
        for task in tasks:
            label = part[task.name]
            sums[task.name] += [(~np.isnan(label)).sum(), np.nansum(label)]
        if not any(_few(task, *sums[task.name]) for task in tasks):
            return []
    found = [f"{' and '.join(few)} of task {t.name!r}" for t in tasks if (few := _few(t, *sums[t.name]))]
    if not found:
        return []
    return [
        f"few validation rows decide which weights are best, and so mostly chance: {', '.join(found)} "
        f"(fewer than {FEW_ROWS['rows']} rows, or {FEW_ROWS['positives']} positives or negatives); "
        "give more rows, or a larger `holdout`"
    ]


def has_measured(records: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> bool:
    """Return whether the last evaluation in the records of a log had rows of one of the tasks."""
    last: Mapping[str, Any] = next((record["valid"] for record in reversed(records) if "valid" in record), {})
    return any(last[task]["rows"] for task in tasks if task in last)


def label_parts(rows: Rows, tasks: Sequence[Task]) -> Iterator[dict[str, npt.NDArray[np.float64]]]:
    """Yield the labels by task ``[rows]``, NaN in rows that do not count for it, of a million rows at a time."""
    for start in range(0, len(rows), LABELS_AT_ONCE):
        part = rows.span(start, start + LABELS_AT_ONCE)
        found = {}
        for task in tasks:
            found[task.name] = task_labels(task, part.labels)
            for weight in (part.weight, part.task_weights.get(task.weight_column or "")):
                if weight is not None:
                    found[task.name] = np.where(weight > 0, found[task.name], np.nan)
        yield found


def _few(task: Task, rows: float, labels: float) -> list[str]:
    """Return in words the counts of a task that are small, given its rows and the sum of their labels."""
    counts = {"row": int(rows)}
    if task.kind == "binary":
        positives = round(labels)
        counts |= {"positive": positives, "negative": int(rows) - positives}
    return [f"{count} {what}{'s' * (count != 1)}" for what, count in counts.items() if count < FEW_ROWS[f"{what}s"]]


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


def step_record(
    losses: Mapping[str, float],
    by_domain: Mapping[str, float],
    weights: Mapping[str, float | None],
    skipped: Mapping[str, int],
) -> dict[str, Any]:
    """Return mean losses, weights and skipped steps by name for the log, ``None`` for a loss that is not finite."""
    named = {"loss": losses} | ({"domain_loss": by_domain} if by_domain else {})
    finite = {key: {n: v if np.isfinite(v) else None for n, v in values.items()} for key, values in named.items()}
    return {**finite, "weight": dict(weights)} | ({"skipped": dict(skipped)} if skipped else {})
