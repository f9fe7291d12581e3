"""Learning curves of a run, as a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recmtl.data.files import new_file

Curves = dict[str, tuple[list[int], list[float]]]  # by name: steps and values


def loss_curves(records: Iterable[Mapping[str, Any]]) -> Curves:
    """Collect the training loss of each objective from the lines of `metrics.jsonl`."""
    curves: Curves = {}
    for record in records:
        for name, value in record.get("loss", {}).items():
            _append(curves, name, record["step"], value)
    return curves


def metric_curves(records: Iterable[Mapping[str, Any]]) -> Curves:
    """Collect the main validation metric of each task (the AUC of a binary one) from the lines of `metrics.jsonl`."""
    curves: Curves = {}
    for record in records:
        for name, metrics in record.get("valid", {}).items():
            metric = next(iter(metrics))
            _append(curves, f"{name} {metric}", record["step"], metrics[metric])
    return curves


def _append(curves: Curves, name: str, step: int, value: float | None) -> None:
    if value is not None:
        steps, values = curves.setdefault(name, ([], []))
        steps.append(step)
        values.append(value)


def save_learning_curves(records: list[dict[str, Any]], path: Path) -> None:
    """Write the learning curves of a run as PNG: a panel per objective's loss, and one per task's validation metric."""
    lines = [("training loss", loss_curves(records)), ("validation", metric_curves(records))]
    lines = [(what, curves) for what, curves in lines if curves]
    if not lines:
        return
    columns = max(len(curves) for _, curves in lines)
    figure = Figure(figsize=(4.2 * columns, 3.2 * len(lines)), layout="constrained")
    for line, (what, curves) in enumerate(lines):
        for column, (name, (steps, values)) in enumerate(curves.items()):
            axes = figure.add_subplot(len(lines), columns, line * columns + column + 1)
            axes.plot(steps, values, marker="o", markersize=3)
            axes.set(title=f"{what}: {name}", xlabel="step")
            axes.grid(alpha=0.3)
    with new_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
