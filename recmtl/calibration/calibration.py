"""The calibration of a run: a fitted method for each task, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from recmtl.calibration.base import Calibrator, Floats
from recmtl.calibration.isotonic import Isotonic
from recmtl.calibration.platt import Platt
from recmtl.calibration.temperature import Temperature
from recmtl.errors import DataError, RunError
from recmtl.evaluate import MEASURES, Predictions, Scores, scores_of, task_labels
from recmtl.io.files import new_file
from recmtl.io.untrusted import from_json, read_text
from recmtl.runs.folder import CALIBRATION, RunFolder
from recmtl.schema import Task, funnel_basis

Method = Literal["isotonic", "platt", "temperature"]
METHODS: Mapping[str, type[Calibrator]] = {"isotonic": Isotonic, "platt": Platt, "temperature": Temperature}
LAYOUT = 1  # of the file


@dataclass(frozen=True)
class Calibration:
    """Calibrators by task. The other rates of a funnel follow from those that are calibrated.

    Args:
        calibrators: The fitted method of each calibrated task.
        outputs: The names of what the model predicts.
        rows: The number of rows that they were fitted on.
    """

    calibrators: Mapping[str, Calibrator]
    outputs: tuple[str, ...]
    rows: int

    def __call__(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return predictions with the probabilities of the calibrated tasks replaced, in the same order."""
        found = self.calibrators
        return {name: found[name](values) if name in found else values for name, values in predictions.items()}

    def applied(self, predictions: Predictions) -> Predictions:
        """Return predictions of the model, of memory or of a file, with calibrated probabilities.

        What the model itself predicts is kept beside them. A calibration that they had before is taken back.
        """
        raw, rates = predictions.before_calibration(), {task.name for task in predictions.schema.funnel_tasks}
        values = {name: raw.values[name] for name in raw.values if name not in rates or name in self.outputs}
        basis = funnel_basis(predictions.schema, values) if rates & {*self.calibrators} else ()
        before = {name: values[name] for name in dict.fromkeys((*basis, *self.calibrators))}
        calibrated = self({name: torch.tensor(found) for name, found in before.items()})
        after = {name: found.numpy() for name, found in calibrated.items()}
        return replace(predictions, values={**values, **after}, uncalibrated=before)

    @property
    def methods(self) -> dict[str, str]:
        """The method of each task."""
        names = {cls: name for name, cls in METHODS.items()}
        return {task: names[type(calibrator)] for task, calibrator in self.calibrators.items()}

    def save(self, folder: RunFolder) -> None:
        """Write the calibration into a run folder."""
        methods = self.methods
        tasks = {task: {"method": methods[task]} | found.to_dict() for task, found in self.calibrators.items()}
        content = {"layout": LAYOUT, "rows": self.rows, "outputs": list(self.outputs), "tasks": tasks}
        with new_file(folder.path / CALIBRATION) as file:
            file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: RunFolder) -> Self | None:
        """Read the calibration of a run folder; ``None`` if the run is not calibrated.

        Raises:
            RunError: The file is damaged.
        """
        path = folder.path / CALIBRATION
        if not path.exists():
            return None
        folder.check(CALIBRATION)
        try:
            content = from_json(read_text(path))
            if content["layout"] != LAYOUT:
                raise ValueError(f"expected layout {LAYOUT}, got {content['layout']!r}: calibrate the run again")
            calibrators = {task: _calibrator(dict(told)) for task, told in content["tasks"].items()}
            return cls(calibrators, tuple(content["outputs"]), content["rows"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged: {error}") from error


def _calibrator(content: dict[str, Any]) -> Calibrator:
    return METHODS[content.pop("method")](**content)


def fit_calibration(predictions: Predictions, method: Method | Mapping[str, Method]) -> Calibration:
    """Fit a calibration on labelled predictions, best on rows that the model was not trained on.

    Row weights count, and rows of a thinned file as those that they stand for. Of a funnel the `funnel_basis` of what
    the model predicts is calibrated.

    Args:
        predictions: Predictions of a model that are not calibrated, with labels.
        method: The method of all tasks: a multi-class task takes ``temperature`` in any case, and a task without
            probabilities none. Or the method of each task that is to be calibrated.

    Raises:
        ValueError: A method or a task is unknown, or a task cannot be calibrated by this method.
        DataError: The rows of a task are none, too few or of one class, or its predictions fall where labels rise.
    """
    chosen = chosen_methods(predictions, method)
    return calibration_of({task.name: fit_calibrator(task, name, predictions) for task, name in chosen}, predictions)


def calibration_of(calibrators: Mapping[str, Calibrator], predictions: Predictions) -> Calibration:
    """Return the calibration of calibrators that were fitted on predictions.

    Raises:
        DataError: There are none.
    """
    if not calibrators:
        raise DataError("no task can be calibrated: a calibration needs predicted probabilities")
    return Calibration(calibrators, tuple(predictions.values), len(next(iter(predictions.values.values()))))


def chosen_methods(predictions: Predictions, method: Method | Mapping[str, Method]) -> list[tuple[Task, str]]:
    """Return the tasks to calibrate, each with its method; arguments and errors as of `fit_calibration`."""
    schema = predictions.schema
    rates = {task.name for task in schema.funnel_tasks}
    basis = funnel_basis(schema, predictions.values)
    tasks = [
        t for t in schema.reported_tasks if t.name in basis or (t.name in predictions.values and t.name not in rates)
    ]
    if isinstance(method, str):
        check_method(method)
        found = [(task, method if task.kind in METHODS[method].kinds else "temperature") for task in tasks]
        return [(task, name) for task, name in found if task.kind in METHODS[name].kinds]
    chosen = []
    by_name = {task.name: task for task in tasks}
    for name, own in method.items():
        check_method(own)
        if name not in by_name:
            follows = f": {name!r} follows from {', '.join(basis)}" if name in rates else ""
            raise ValueError(f"a calibration must name tasks of {', '.join(by_name)}, got {name!r}{follows}")
        kinds = METHODS[own].kinds
        if by_name[name].kind not in kinds:
            raise ValueError(f"{own!r} calibrates {' and '.join(kinds)} tasks, {name!r} is {by_name[name].kind}")
        chosen.append((by_name[name], str(own)))
    return chosen


def check_method(method: str) -> None:
    """Raise a `ValueError` unless a method is known."""
    if method not in METHODS:
        raise ValueError(f"a calibration must be by {', '.join(get_args(Method))}, got {method!r}")


def fit_calibrator(task: Task, method: str, predictions: Predictions) -> Calibrator:
    """Fit a method on the rows that count for a task; errors as of `fit_calibration`."""
    labels, values, sampling = task_labels(task, predictions.labels), predictions.values, predictions.sampling_weight
    scores = scores_of(task, labels, values[task.name], predictions.weight_of(task), sampling_weight=sampling)
    found = METHODS[method]
    if why := why_uncalibrated(scores, found.fewest):
        raise DataError(f"task {task.name!r} cannot be calibrated by {method}: {why}")
    weight: Floats = np.ones(len(scores)) if scores.weight is None else scores.weight
    try:
        return found.fit(scores.predictions, scores.labels, weight)
    except ValueError as error:
        raise DataError(f"task {task.name!r} cannot be calibrated by {method}: {error}") from error


def why_uncalibrated(scores: Scores, fewest: int) -> str | None:
    """Return why rows cannot calibrate a task; ``None`` if they can."""
    measure = MEASURES[scores.task.kind]
    if not len(scores):
        return "no row has a label"
    if not measure.is_valid(scores.predictions).all():
        return f"a prediction is not {measure.valid}"
    if scores.task.kind != "binary":
        return None if len(scores) >= fewest else f"expected at least {fewest} rows, got {len(scores):,}"
    if scores.labels.min() == scores.labels.max():
        return measure.why_undefined(scores)
    positives = round(float(scores.labels.sum()))
    rarer, least = min(("positives", positives), ("negatives", len(scores) - positives), key=lambda pair: pair[1])
    return f"expected at least {fewest} {rarer}, got {least:,}" if least < fewest else None
