"""The end of a run: it is measured, and its folder is filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from recmtl.data import Rows
from recmtl.data.files import new_file
from recmtl.evaluate import Metrics, metrics_of
from recmtl.train.checkpoints import prune
from recmtl.train.folder import PLOTS, REPORTED, RunFolder
from recmtl.train.interruption import Asked, Interrupted, Interruption
from recmtl.train.memory import peak_memory
from recmtl.train.plots import save_diagnosis, save_learning_curves
from recmtl.train.predicting import expert_usage

if TYPE_CHECKING:
    from recmtl.train.trainer import Trainer


def finish(trainer: Trainer, splits: Mapping[str, Rows]) -> dict[str, dict[str, Metrics]]:
    """Measure a model on rows, predicting them once, and write what a finished run holds.

    Args:
        trainer: The model and the options.
        splits: The rows, by the name under which their metrics stand.

    Raises:
        Interrupted: A signal asked to stop; there is a checkpoint, from which the run can be finished.
        RunError: Another process is at work in the run folder.
    """
    if trainer.folder is None:
        return measured_on(trainer, splits)
    steps = list(trainer.folder.steps())
    with trainer.folder.held(), Interruption(bool(steps)) as stop:
        try:
            with stop.breakable():
                return measured_on(trainer, splits)
        except Asked:
            assert stop.signal is not None
            raise Interrupted(stop.signal, trainer.folder.path, steps[-1]) from None


def measured_on(trainer: Trainer, splits: Mapping[str, Rows]) -> dict[str, dict[str, Metrics]]:
    """Measure a model on rows, and fill its run folder where it has one."""
    measured, folder = {}, trainer.folder
    for name, rows in splits.items():
        predictions = trainer.predict_rows(rows, together=True)
        measured[name] = {task: metrics_of(scores) for task, scores in predictions.scores().items()}
        if folder and trainer.run.predictions:
            with new_file(folder.predictions(name)) as file:
                predictions.write(file)
    if folder:
        reported = next((splits[name] for name in REPORTED if name in splits), None)
        usage = expert_usage(trainer.model, reported, trainer.device, trainer.optimization) if reported else {}
        if usage:
            folder.save_usage(usage)
        _plot(folder)
        prune(folder, 1)
        folder.finish(
            {
                **{split: {name: m.to_dict() for name, m in tasks.items()} for split, tasks in measured.items()},
                "best": {"monitor": trainer.monitor, "value": trainer.best},
                **({} if trainer.window is None else {"window": trainer.window}),
                "seconds": trainer.seconds,
                "train_rows_per_second": trainer.rows_per_second,
                "peak_memory_bytes": peak_memory(),
                "device": str(trainer.device),
            }
        )
    return measured


def _plot(folder: RunFolder) -> None:
    records, plots = folder.records(), folder.path / PLOTS
    save_learning_curves(records, plots / "learning_curves.png")
    save_diagnosis(records, plots / "diagnosis.png")
