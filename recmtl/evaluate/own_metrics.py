"""Metrics of your own: functions that are measured like recmtl's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from recmtl.errors import shown
from recmtl.io.import_paths import imported, path_of
from recmtl.schema import Task

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
MetricFunction = Callable[[Floats, Floats, Floats, Integers | None], float]
ALL = "all"  # the key of metrics of every task


@dataclass(frozen=True)
class OwnMetric:
    """A metric of your own.

    Args:
        name: The name of the function, which is that of the metric.
        function: Takes predictions, labels, weights and groups, and returns a number.
        path: Its import path.
    """

    name: str
    function: MetricFunction
    path: str

    @classmethod
    def of(cls, given: str | MetricFunction) -> OwnMetric:
        """Return the metric of a function or of its import path.

        Raises:
            UsageError: The import path leads to nothing.
            ValueError: It is no function with a name.
        """
        function = imported(given, "function") if isinstance(given, str) else given
        name = getattr(function, "__name__", "")
        if not callable(function) or isinstance(function, type) or not name.isidentifier():
            raise ValueError(f"an own metric must be a function with a name, got {shown(given)}")
        return cls(name, function, path_of(given))

    @property
    def higher_is_better(self) -> bool:
        """Whether higher values are better: the function's attribute of this name, by default true."""
        return bool(getattr(self.function, "higher_is_better", True))

    def __call__(
        self, predictions: Floats, labels: Floats, weight: Floats, groups: Integers | None
    ) -> tuple[float, str | None]:
        """Return the value, NaN if it is undefined, and then the reason.

        Shape:
            - predictions: ``[rows]``, of a multiclass task ``[rows, classes]``
            - labels, weight, groups: ``[rows]``
        """
        arrays = [array if array is None else _read_only(array) for array in (predictions, labels, weight, groups)]
        try:
            value: Any = self.function(*arrays)  # type: ignore[arg-type]
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever a user's function raises, also SystemExit
            return np.nan, f"{self.name} raised {type(error).__name__}: {' '.join(str(error).split())}"
        if not isinstance(value, Real) and not (isinstance(value, np.ndarray) and value.ndim == 0):
            return np.nan, f"{self.name} must return a number, got {shown(value)}"
        return float(value), None if np.isfinite(float(value)) else f"{self.name} returned {float(value)}"


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view that a function cannot write to, since other metrics read the same memory."""
    view = array.view()
    view.flags.writeable = False
    return view


OwnMetrics = Mapping[str, Sequence[OwnMetric]]  # by a task's name, a kind of tasks, or `all`


def own_metrics(given: Mapping[str, Sequence[str | MetricFunction]]) -> dict[str, list[OwnMetric]]:
    """Return the metrics of functions and import paths, by the same keys.

    Raises:
        UsageError: An import path leads to nothing.
        ValueError: One is no function, or two have the same name.
    """
    found = {key: [OwnMetric.of(one) for one in functions] for key, functions in given.items()}
    paths: dict[str, OwnMetric] = {}
    for metric in (metric for metrics in found.values() for metric in metrics):
        if paths.setdefault(metric.name, metric).function is not metric.function:
            raise ValueError(f"two own metrics are called {metric.name!r}: {paths[metric.name].path} and {metric.path}")
    return found


def metrics_of_task(task: Task, metrics: OwnMetrics) -> tuple[OwnMetric, ...]:
    """Return the own metrics of a task: those of its name, its kind, and of all tasks."""
    return tuple({m.name: m for key in (task.name, task.kind, ALL) for m in metrics.get(key, ())}.values())


def check_own_metrics(metrics: OwnMetrics, tasks: Sequence[Task], taken: Collection[str]) -> None:
    """Check that own metrics belong to tasks, and have no name that is taken.

    Raises:
        ValueError: A key is no task, no kind of the tasks and not `all`, or a name is taken.
    """
    keys = [*(task.name for task in tasks), *dict.fromkeys(task.kind for task in tasks), ALL]
    for key, of_key in metrics.items():
        if key not in keys:
            raise ValueError(f"own metrics belong to a task, a kind or all of them ({', '.join(keys)}), got {key!r}")
        for metric in of_key:
            if metric.name in taken:
                raise ValueError(f"{metric.path} has the name of recmtl's metric {metric.name!r}: rename the function")


def described(metrics: OwnMetrics) -> dict[str, Any]:
    """Return what the files of a run say of own metrics: by name the import path, and which values are better."""
    found = (metric for of_key in metrics.values() for metric in of_key)
    return {m.name: {"path": m.path, "higher_is_better": m.higher_is_better} for m in found}
