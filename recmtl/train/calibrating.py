"""Calibrate a trained model on labelled rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from recmtl.calibration import Calibration, Method, fit_calibration
from recmtl.calibration.base import Calibrator
from recmtl.calibration.calibration import (
    calibration_of,
    check_method,
    chosen_methods,
    fit_calibrator,
    predictions_to_calibrate,
)
from recmtl.data import DataError, Rows
from recmtl.evaluate import Predictions, metrics_of
from recmtl.runs.folder import CHECKSUMS, REPORTED, RunFolder
from recmtl.train.artifacts import plain_domain_metrics
from recmtl.train.predictor import Predictor
from recmtl.train.setup import TrainingSetup

Methods = Method | dict[str, Method]


def check_methods(method: Methods | None) -> None:
    """Raise a `ValueError` unless all methods are known."""
    for name in method.values() if isinstance(method, Mapping) else [method] * (method is not None):
        check_method(str(name))


def calibrate_model(setup: TrainingSetup, predictor: Predictor, rows: Rows, method: Methods) -> Predictions:
    """Fit the calibration of a model, which its predictions take from then on.

    Returns:
        The calibrated predictions of the rows.
    """
    model = setup.model
    before, model.calibration = model.calibration, None
    try:
        predictions = predictor.predict(rows)
        model.calibration = fit_calibration(predictions, method)
    except Exception:
        model.calibration = before
        raise
    return model.calibration.applied(predictions)


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
    predictions, found = predictions_to_calibrate(predictor.predict(valid)), dict[str, Calibrator]()
    for task, name in chosen_methods(predictions, method):
        try:
            found[task.name] = fit_calibrator(task, name, predictions)
        except DataError as error:
            note(str(error))
    setup.model.calibration = calibration_of(found, predictions) if found else None


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
            result.setdefault("domains", {})[split] = plain_domain_metrics(predictions)
    calibration.save(folder)
    folder.finish(result)
