"""The end of a run: final metrics, predictions and plots in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recmtl.callbacks import FitResult
from recmtl.data import Rows
from recmtl.errors import Interrupted
from recmtl.evaluate import Metrics, figures
from recmtl.evaluate.history import diagnosis_curves, loss_curves, metric_curves
from recmtl.evaluate.own_metrics import described, own_metrics
from recmtl.io.files import new_file
from recmtl.io.machine import peak_memory
from recmtl.runs.checkpoints import prune
from recmtl.runs.folder import PLOTS, REPORTED, RunFolder
from recmtl.train.predictor import Predictor
from recmtl.train.setup import TrainingSetup
from recmtl.train.signals import StopRequested, StopSignals

LEGEND_INCHES = 0.2  # the height of a line of a legend


def finish_run(setup: TrainingSetup, result: FitResult, splits: Mapping[str, Rows]) -> dict[str, dict[str, Metrics]]:
    """Measure the trained model, and complete its run folder if there is one.

    A complete run folder keeps the best weights alone: the checkpoints to resume from are removed.

    Raises:
        Interrupted: A signal asked to stop; the run can be finished from its checkpoint.
        RunError: Another process is at work in the run folder.
    """
    with setup.folder_held():
        if setup.folder is None:
            return _measure_and_save(setup, result, splits)
        steps = list(setup.folder.steps())
        with StopSignals(bool(steps)) as stop:
            try:
                with stop.interruptible():
                    measured = _measure_and_save(setup, result, splits)
            except StopRequested:
                assert stop.signal is not None
                raise Interrupted(stop.signal, setup.folder.path, steps[-1]) from None
            prune(setup.folder, 0)
    return measured


def _measure_and_save(
    setup: TrainingSetup, result: FitResult, splits: Mapping[str, Rows]
) -> dict[str, dict[str, Metrics]]:
    measured, folder, predictor = {}, setup.folder, Predictor(setup, setup.processes)
    domains: dict[str, dict[str, dict[str, Any]]] = {}  # of each split, task and domain
    for name, rows in splits.items():
        predictions = predictor.shares(rows)
        measured[name] = predictions.metrics()
        if setup.run.folder and setup.model.schema.schema.domain:
            domains[name] = plain_metrics(predictions.domain_metrics())
        if setup.run.folder and setup.run.predictions:
            predictions.write(folder.predictions(name) if folder else None)
    reported = next((splits[name] for name in REPORTED if name in splits), None)
    usage = predictor.expert_usage(reported) if setup.run.folder and reported else {}
    if folder:
        if usage:
            folder.save_usage(usage)
        if setup.model.calibration is not None:
            setup.model.calibration.save(folder)
        save_plots(folder)
        folder.finish(
            {
                **{split: {name: m.to_dict() for name, m in tasks.items()} for split, tasks in measured.items()},
                **({"domains": domains} if domains else {}),
                **({"own_metrics": described(own)} if (own := own_metrics(setup.stopping.metrics)) else {}),
                "best": {"monitor": setup.metric_monitor().monitor, "value": result.best},
                **({} if result.window is None else {"window": result.window}),
                "batch_size": result.batch_size,
                "seconds": result.seconds,
                "train_rows_per_second": result.rows_per_second,
                "peak_memory_bytes": peak_memory(),
                "device": str(setup.device),
            }
        )
    return measured


def plain_metrics(by_task: Mapping[str, Mapping[str, Metrics]]) -> dict[str, dict[str, Any]]:
    """Return the metrics of each task and domain as plain data."""
    return {task: {domain: m.to_dict() for domain, m in found.items()} for task, found in by_task.items()}


def save_plots(folder: RunFolder) -> None:
    """Write the plots of a run."""
    records, plots = folder.records(), folder.path / PLOTS
    save_learning_curves(records, plots / "learning_curves.png")
    save_gradient_stats(records, plots / "diagnosis.png")


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
    _save_png(figure, path)


def save_gradient_stats(records: list[dict[str, Any]], path: Path) -> None:
    """Write the gradient statistics of a run as PNG: a panel for the norms, the cosines and the weights."""
    panels = {"gradient_norm": figures.gradient_norms, "cosine": figures.cosines, "weight": figures.task_weights}
    lines = {what: len(diagnosis_curves(records, what)) for what in panels}
    measured = [what for what, count in lines.items() if count]
    if not measured:
        return
    height = max(4.2, 1 + LEGEND_INCHES * max(lines["gradient_norm"], lines["weight"]))
    figure = Figure(figsize=(4.8 * len(measured), height), layout="constrained")
    for column, what in enumerate(measured, start=1):
        panels[what](records, figure.add_subplot(1, len(measured), column))
    _save_png(figure, path)


def _save_png(figure: Figure, path: Path) -> None:
    with new_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
