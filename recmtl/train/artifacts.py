"""The end of a run: it is measured, and its folder is filled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from recmtl.data import Rows
from recmtl.errors import Interrupted
from recmtl.evaluate import Metrics, metrics_of
from recmtl.io.files import new_file
from recmtl.runs.checkpoints import prune
from recmtl.runs.folder import PLOTS, REPORTED, RunFolder
from recmtl.train.device import peak_memory
from recmtl.train.predictor import expert_usage
from recmtl.train.signals import StopRequested, StopSignals

if TYPE_CHECKING:
    from recmtl.train.trainer import Trainer


from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recmtl.evaluate import figures
from recmtl.evaluate.history import diagnosis_curves, loss_curves, metric_curves


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
    with trainer.folder.held(), StopSignals(bool(steps)) as stop:
        try:
            with stop.breakable():
                return measured_on(trainer, splits)
        except StopRequested:
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


def save_learning_curves(records: list[dict[str, Any]], path: Path) -> None:
    """Write the learning curves of a run as PNG: a panel per objective's loss, and one per task's validation metric."""
    lines = [("training loss", loss_curves(records)), ("validation", metric_curves(records))]
    lines = [(what, curves) for what, curves in lines if curves]
    if not lines:
        return
    columns = max(len(curves) for _, curves in lines)
    figure = Figure(figsize=(4.2 * columns, 3.2 * len(lines)), layout="constrained")
    for line, (what, curves) in enumerate(lines):
        for column, (name, curve) in enumerate(curves.items()):
            axes = figure.add_subplot(len(lines), columns, line * columns + column + 1)
            figures.over_steps({name: curve}, what, axes).set_title(f"{what}: {figures.short(name)}")
    _write(figure, path)


def save_diagnosis(records: list[dict[str, Any]], path: Path) -> None:
    """Write what a run's diagnosis measured as PNG: a panel for the gradients' norms, their cosines and the weights.

    The cosines of many pairs are shown by their means over the run.
    """
    panels = {"gradient_norm": figures.gradient_norms, "cosine": figures.cosines, "weight": figures.task_weights}
    measured = [what for what in panels if diagnosis_curves(records, what)]
    if not measured:
        return
    figure = Figure(figsize=(4.8 * len(measured), 4.2), layout="constrained")
    for column, what in enumerate(measured, start=1):
        panels[what](records, figure.add_subplot(1, len(measured), column))
    _write(figure, path)


def _write(figure: Figure, path: Path) -> None:
    with new_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
