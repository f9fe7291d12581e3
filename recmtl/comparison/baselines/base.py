"""What a baseline is: a function that fits one model on the rows of one task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from recmtl.errors import UsageError
from recmtl.evaluate import MEASURES, metrics_of, scores_of
from recmtl.schema import Task
from recmtl.tuning.space import Range

TREES = 1000  # at most
PATIENCE = 50  # stopped after this many trees without a better value on the validation rows
UNSTOPPED_TREES = 100  # where there are no validation rows

Floats = npt.NDArray[np.float64]
Inputs = npt.NDArray[np.float32] | Floats
Options = Mapping[str, Any]


class Examples(NamedTuple):
    """The rows that count for a task.

    Args:
        x: Their inputs ``[rows, columns]``.
        labels: Their labels ``[rows]``.
        weight: Their weights ``[rows]``; ``None`` if all count alike.
    """

    x: Inputs
    labels: Floats
    weight: Floats | None = None


@dataclass(frozen=True)
class TaskRows:
    """What a model is fitted on.

    Args:
        task: The task.
        train: The training rows.
        valid: The validation rows, which decide when to stop; ``None`` without any.
        categories: The places of the columns that hold ids of categories.
        bins: The places of the columns that hold ids with an order: bins, hours, days of the week.
        classes: The number of classes of a multi-class task, whose labels are their numbers; 0 for other kinds.
    """

    task: Task
    train: Examples
    valid: Examples | None
    categories: tuple[int, ...] = ()
    bins: tuple[int, ...] = ()
    classes: int = 0


@dataclass(frozen=True)
class FittedBaseline:
    """A fitted model.

    Args:
        predict: Returns predictions of inputs ``[rows, columns]``: probabilities or values ``[rows]``, or those of
            classes ``[rows, C]``.
        parameters: The number of leaves and splits, or of coefficients.
        trees: The number of trees; 0 if there are none.
    """

    predict: Callable[[Inputs], Floats]
    parameters: int
    trees: int = 0


@dataclass(frozen=True)
class Baseline:
    """A kind of model of another library.

    Args:
        name: Its name on the command line.
        fit: Fits a model on rows, with options of the library, a seed and a number of threads.
        package: The package that it needs.
        search_space: What is searched of its options if a comparison is tuned.
        defaults: Options where none are given.
    """

    name: str
    fit: Callable[[TaskRows, Options, int, int], FittedBaseline]
    package: str
    search_space: Mapping[str, Range]
    defaults: Options = field(default_factory=dict)

    def check_installed(self) -> None:
        """Check that its package is installed.

        Raises:
            UsageError: It is not.
        """
        if find_spec(self.package) is None:
            raise UsageError(f"the baseline {self.name!r} needs {self.package!r}: pip install 'recmtl[baselines]'")


def of_all_classes(probabilities: Floats, known: Floats, classes: int) -> Floats:
    """Return probabilities of all classes ``[rows, C]`` from those of the classes that training rows have.

    Args:
        probabilities: The probabilities of the known classes ``[rows, known]``.
        known: Their numbers.
        classes: C.
    """
    found = np.zeros((len(probabilities), classes))
    found[:, known.astype(np.int64)] = probabilities
    return found


def quality(task: Task, examples: Examples, predictions: Floats) -> float:
    """Return how good predictions are, by the metric that stops nets as well; higher is better.

    Where that is undefined, such as the AUC of one class, it is the negative loss that stands in for it.
    """
    measure = MEASURES[task.kind]
    scores = scores_of(task, examples.labels, predictions, examples.weight)
    values = metrics_of(scores, names=[measure.monitor, measure.fallback]).values
    found = values[measure.monitor]
    return -float(values[measure.fallback] or 0.0) if found is None else float(found)
