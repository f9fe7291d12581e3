"""The pictures in a run folder: learning curves, and what the tasks' gradients did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recmtl.data.files import new_file
from recmtl.evaluate import figures
from recmtl.evaluate.curves import diagnosis_curves, loss_curves, metric_curves


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
