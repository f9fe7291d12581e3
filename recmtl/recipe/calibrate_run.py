"""Calibrate a finished run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from recmtl.calibration import Method
from recmtl.data import Rows
from recmtl.data.sources.open import Data
from recmtl.evaluate import Predictions, calibration_table
from recmtl.recipe.load import load_run
from recmtl.runs.folder import REPORTED, RunFolder
from recmtl.train import Trainer
from recmtl.train.calibrating import save_calibration, with_methods


def calibrate_run(
    run: str | Path,
    rows: Rows | Data | Callable[[Trainer], Rows],
    method: Method | dict[str, Method] = "isotonic",
    trust: str | Sequence[str] = (),
) -> pd.DataFrame:
    """Calibrate a finished run on labelled rows, and write the calibration into its folder.

    Its predictions and metrics become those of the calibrated model; a calibration that it had is replaced. Several
    processes all call it with the same rows, and the first writes.

    Args:
        run: The run folder.
        rows: Rows that the model was not trained on: prepared ones, raw ones in any form that `prepare` takes, or a
            function that encodes them for its trainer.
        method: As of `Trainer.calibrate`.
        trust: Modules of your own whose classes the recipe names, as in `load_run`.

    Returns:
        The `calibration_table` of the run's test rows, if it has predictions of them with labels of a calibrated task,
        or else of its validation rows or the given ones; the column `split` says which, and `method` what calibrates
        each task.

    Raises:
        ValueError: As of `Trainer.calibrate`.
        DataError: Likewise; the run is then as before.
        RunError: The run is unfinished, damaged or not trusted, or another process is at work in it.
    """
    folder = RunFolder(run)
    trainer = load_run(run, trust)
    processes = trainer.setup.processes
    with ExitStack() as stack:
        processes.in_first(lambda: stack.enter_context(folder.held()))
        found = trainer.calibrate(rows(trainer) if callable(rows) else rows, method)
        return processes.in_first(lambda: _saved(folder, trainer, found))


def _saved(folder: RunFolder, trainer: Trainer, found: pd.DataFrame) -> pd.DataFrame:
    """Write the calibration of a trainer into its run, and return the table of the rows there, or else the given."""
    assert trainer.model.calibration is not None
    save_calibration(folder, trainer.model.calibration)
    shown = "given"
    for split in REPORTED[::-1]:
        if folder.predictions(split).is_file():
            predictions = Predictions.read(trainer.model.schema.schema, folder.predictions(split))
            table = with_methods(calibration_table(predictions), trainer.model.calibration)
            if table["method"].notna().any():  # without labels of a calibrated task there is nothing to show
                found, shown = table, split
    return found.assign(split=shown)
