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
from recmtl.evaluate.metrics import totals_of
from recmtl.io.files import new_file
from recmtl.io.untrusted import from_json, read_text
from recmtl.runs.folder import CALIBRATION, RunFolder
from recmtl.schema import Schema, Task, conditional_rates

Method = Literal["isotonic", "platt", "temperature"]
METHODS: Mapping[str, type[Calibrator]] = {"isotonic": Isotonic, "platt": Platt, "temperature": Temperature}
LAYOUT = 2  # of the file


@dataclass(frozen=True)
class Calibration:
    """Calibrators by task. The other rates of a funnel follow from those that are calibrated.

    Of a funnel the `conditional_rates` are calibrated, so that each is right on its own rows; joint rates are products.

    Args:
        calibrators: The fitted method of each calibrated task.
        rows: The number of rows that they were fitted on.
    """

    calibrators: Mapping[str, Calibrator]
    rows: int

    def __call__(self, schema: Schema, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return calibrated predictions; if rates of the funnel are calibrated, those that others follow from."""
        return self._calibrated(self._inputs(schema, predictions, torch))

    def applied(self, predictions: Predictions) -> Predictions:
        """Return predictions of the model, of memory or of a file, with calibrated probabilities.

        What the model itself predicts is kept beside them. A calibration that they had before is taken back.
        """
        schema = predictions.schema
        before = self._inputs(schema, predictions.before_calibration().values, np)
        after = self._calibrated({name: torch.tensor(values) for name, values in before.items()})
        rates = {task.name for task in schema.funnel_tasks} if self._of_funnel(schema) else set()
        kept = {name: values for name, values in before.items() if name in rates or name in self.calibrators}
        return replace(predictions, values={n: values.numpy() for n, values in after.items()}, uncalibrated=kept)

    def _inputs(self, schema: Schema, predictions: Mapping[str, Any], xp: Any) -> Mapping[str, Any]:
        return conditional_rates(schema, predictions, xp) if self._of_funnel(schema) else predictions

    def _of_funnel(self, schema: Schema) -> bool:
        return any(task.name in self.calibrators for task in schema.funnel_tasks)

    def _calibrated(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = self.calibrators
        return {name: found[name](values) if name in found else values for name, values in predictions.items()}

    @property
    def methods(self) -> dict[str, str]:
        """The method of each task."""
        names = {cls: name for name, cls in METHODS.items()}
        return {task: names[type(calibrator)] for task, calibrator in self.calibrators.items()}

    def save(self, folder: RunFolder) -> None:
        """Write the calibration into a run folder."""
        methods = self.methods
        tasks = {task: {"method": methods[task]} | found.to_dict() for task, found in self.calibrators.items()}
        content = {"layout": LAYOUT, "rows": self.rows, "tasks": tasks}
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
            return cls(calibrators, content["rows"])
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunError(f"{path} is damaged: {error}") from error


def shown_methods(methods: Mapping[str, str]) -> str:
    """Return in words which method calibrates which tasks: ``platt (ctr, cvr), temperature (category)``."""
    tasks: dict[str, list[str]] = {}
    for task, method in methods.items():
        tasks.setdefault(method, []).append(task)
    return ", ".join(f"{method} ({', '.join(names)})" for method, names in tasks.items())


def _calibrator(content: dict[str, Any]) -> Calibrator:
    return METHODS[content.pop("method")](**content)


def fit_calibration(predictions: Predictions, method: Method | Mapping[str, Method]) -> Calibration:
    """Fit a calibration on labelled predictions, best on rows that the model was not trained on.

    Row weights count, and rows of a thinned file as those that they stand for. Of a funnel the `conditional_rates` are
    calibrated, whichever the model predicts, each on the rows that count for it.

    Args:
        predictions: Predictions of a model that are not calibrated, with labels.
        method: The method of all tasks, of which those without probabilities take none; or that of each task that is
            to be calibrated. A multi-class task takes ``temperature`` in any case.

    Raises:
        ValueError: A method or a task is unknown, or a task cannot be calibrated by this method.
        DataError: The rows of a task are none, too few or of one class, or its predictions fall where labels rise.
    """
    predictions = predictions_to_calibrate(predictions)
    found, errors = fit_possible(predictions, method)
    if errors:
        raise DataError(f"{errors[0]}; name the tasks to calibrate, of {', '.join(found)}" if found else errors[0])
    return calibration_of(found, predictions)


def fit_possible(
    predictions: Predictions, method: Method | Mapping[str, Method]
) -> tuple[dict[str, Calibrator], list[str]]:
    """Return the calibrators of the tasks of `predictions_to_calibrate` that have one, and why others have none."""
    found, errors = dict[str, Calibrator](), list[str]()
    for task, name in chosen_methods(predictions, method):
        try:
            found[task.name] = fit_calibrator(task, name, predictions)
        except DataError as error:
            errors.append(str(error))
    return found, errors


def calibration_of(calibrators: Mapping[str, Calibrator], predictions: Predictions) -> Calibration:
    """Return the calibration of calibrators that were fitted on predictions.

    Raises:
        DataError: There are none.
    """
    if not calibrators:
        raise DataError("no task can be calibrated: a calibration needs predicted probabilities")
    return Calibration(calibrators, len(next(iter(predictions.values.values()))))


def predictions_to_calibrate(predictions: Predictions) -> Predictions:
    """Return predictions whose rates of the funnel are its `conditional_rates`."""
    return replace(predictions, values=conditional_rates(predictions.schema, predictions.values, np))


def chosen_methods(predictions: Predictions, method: Method | Mapping[str, Method]) -> list[tuple[Task, str]]:
    """Return the tasks to calibrate among `predictions_to_calibrate`, each with its method; as of `fit_calibration`."""
    schema = predictions.schema
    rates = {task.name for task in schema.funnel_tasks}
    tasks = [task for task in schema.reported_tasks if task.name in predictions.values]
    basis = [task.name for task in tasks if task.name in rates]
    if isinstance(method, str):
        check_method(method)
        found = [(task, _method_of(task, method)) for task in tasks]
        return [(task, name) for task, name in found if task.kind in METHODS[name].kinds]
    chosen = []
    by_name = {task.name: task for task in tasks}
    for name, own in method.items():
        check_method(own)
        if name not in by_name:
            follows = f": {name!r} follows from {', '.join(basis)}" if name in rates else ""
            known = ", ".join(t.name for t in tasks if any(t.kind in by.kinds for by in METHODS.values()))
            raise ValueError(f"a calibration must name tasks of {known}, got {name!r}{follows}")
        task, kinds = by_name[name], METHODS[own].kinds
        if task.kind not in METHODS[_method_of(task, own)].kinds:
            raise ValueError(f"{own!r} calibrates {' and '.join(kinds)} tasks, {name!r} is {task.kind}")
        chosen.append((task, _method_of(task, own)))
    return chosen


def _method_of(task: Task, method: str) -> str:
    """Return the method of a task: ``temperature`` if its kind does not take the given one."""
    return method if task.kind in METHODS[method].kinds else "temperature"


def check_method(method: str) -> None:
    """Raise a `ValueError` unless a method is known."""
    if method not in METHODS:
        raise ValueError(f"a calibration must be by {', '.join(get_args(Method))}, got {method!r}")


def fit_calibrator(task: Task, method: str, predictions: Predictions) -> Calibrator:
    """Fit a method on the rows that count for a task of `predictions_to_calibrate`; errors as of `fit_calibration`."""
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
        return _why_few("rows", np.ones(len(scores)), scores.weight, fewest)
    if scores.labels.min() == scores.labels.max():
        return measure.why_undefined(totals_of(scores))
    positives = _why_few("positives", scores.labels, scores.weight, fewest)
    return positives or _why_few("negatives", 1 - scores.labels, scores.weight, fewest)


def _why_few(what: str, parts: Floats, weight: Floats | None, fewest: int) -> str | None:
    """Return that rows, of which each is a part of what is counted, are too few for their weights (Kish's number)."""
    weights: Floats = np.ones(len(parts)) if weight is None else weight
    effective = float((weights @ parts) ** 2 / (weights**2 @ parts)) if parts.any() else 0.0
    if round(effective, 6) >= fewest:
        return None
    count = round(float(parts.sum()))
    like = f", whose weights make them count like {effective:.1f}" if count >= fewest else ""
    return f"expected at least {fewest} {what}, got {count:,}{like}"
