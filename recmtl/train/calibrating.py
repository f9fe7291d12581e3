"""Calibrate a trained model on labelled rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd

from recmtl.calibration import Calibration, Method, fit_calibration
from recmtl.calibration.calibration import (
    calibration_of,
    check_method,
    fit_possible,
    predictions_to_calibrate,
)
from recmtl.data import Rows
from recmtl.evaluate import Predictions, calibration_table, domain_metrics, domain_scores, metrics_of
from recmtl.runs.folder import CHECKSUMS, REPORTED, RunFolder
from recmtl.train.artifacts import plain_metrics
from recmtl.train.predictor import Predictor
from recmtl.train.setup import TrainingSetup

Methods = Method | dict[str, Method]


def check_methods(method: Methods | None) -> None:
    """Raise a `ValueError` unless all methods are known."""
    for name in method.values() if isinstance(method, Mapping) else [method] * (method is not None):
        check_method(str(name))


def calibrate_model(setup: TrainingSetup, predictor: Predictor, rows: Rows, method: Methods) -> pd.DataFrame:
    """Fit the calibration of a model, which its predictions take from then on, in the first of several processes.

    Returns:
        The `calibration_table` of the calibrated predictions of the rows, with the column `method`.
    """
    model = setup.model
    before, model.calibration = model.calibration, None
    try:
        predictions = predictor.shares(rows).gathered()
        model.calibration, found = setup.processes.in_first(lambda: _fit_and_measure(predictions, method))
    except Exception:
        model.calibration = before
        raise
    return found


def _fit_and_measure(predictions: Predictions | None, method: Methods) -> tuple[Calibration, pd.DataFrame]:
    assert predictions is not None  # in the first process
    calibration = fit_calibration(predictions, method)
    return calibration, with_methods(calibration_table(calibration.applied(predictions)), calibration)


def with_methods(found: pd.DataFrame, calibration: Calibration) -> pd.DataFrame:
    """Return a `calibration_table` with the column `method`, missing for a rate that follows from calibrated ones."""
    return found.assign(method=found["task"].map(calibration.methods))


def calibrate_after_training(
    setup: TrainingSetup, predictor: Predictor, valid: Rows | None, note: Callable[[str], None]
) -> None:
    """Calibrate a model that was just trained, if its options ask for it; what cannot be calibrated gets a note."""
    method, start = setup.calibration, setup.start
    if method is None:
        if start is not None and Calibration.read(start.folder) is not None:
            note(
                f"{str(start.folder.path)!r} is calibrated, the run that continues it is not: calibrate it by "
                "`recmtl calibrate`, or train with `--trainer.calibration`"
            )
        return
    if valid is None:
        note("the model is not calibrated: there are no validation rows")
        return
    predictions = predictor.shares(valid).gathered()
    setup.model.calibration, notes = setup.processes.in_first(lambda: _fit_what_can_be(predictions, method))
    for line in notes:
        note(line)


def _fit_what_can_be(
    predictions: Predictions | None, method: Method | Mapping[str, Method]
) -> tuple[Calibration | None, list[str]]:
    """Return a calibration of the tasks that can be calibrated, and why others cannot."""
    assert predictions is not None  # in the first process
    predictions = predictions_to_calibrate(predictions)
    found, notes = fit_possible(predictions, method)
    return calibration_of(found, predictions) if found else None, notes


def save_calibration(folder: RunFolder, calibration: Calibration) -> None:
    """Write a calibration into a finished run, and apply it to the predictions and metrics in it.

    If the process is killed meanwhile, the run has no checksums and can be calibrated again.
    """
    schema, result = folder.schema().schema, folder.result()
    files = {split: folder.predictions(split) for split in REPORTED if folder.predictions(split).is_file()}
    calibrated = {split: calibration.applied(Predictions.read(schema, file)) for split, file in files.items()}
    (folder.path / CHECKSUMS).unlink(missing_ok=True)
    for split, predictions in calibrated.items():
        predictions.write(files[split])
        result[split] = {task: metrics_of(scores).to_dict() for task, scores in predictions.scores().items()}
        if schema.domain:
            result.setdefault("domains", {})[split] = plain_metrics(domain_metrics(domain_scores(predictions)))
    calibration.save(folder)
    folder.finish(result)
