"""Learning curves of a run, and what its tasks' gradients did, as pictures."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recmtl.data.files import new_file

Curves = dict[str, tuple[list[int], list[float]]]  # by name: steps and values
TITLES = {
    "gradient_norm": "gradient norm on the shared tensors",
    "cosine": "cosine of two tasks' gradients",
    "weight": "task weight",
}
MOST_PAIRS = 6  # of tasks, whose cosines can be told apart as lines
LONGEST_NAME = 20


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
    _write(figure, path)


def diagnosis_curves(records: Iterable[Mapping[str, Any]], what: str) -> Curves:
    """Collect one of the measurements of a diagnosis, such as `cosine`, from the lines of `metrics.jsonl`."""
    curves: Curves = {}
    for record in records:
        for name, value in record.get("diagnosis", {}).get(what, {}).items():
            _append(curves, name, record["step"], value)
    return curves


def save_diagnosis(records: list[dict[str, Any]], path: Path) -> None:
    """Write what a run's diagnosis measured as PNG: a panel for the gradients' norms, their cosines and the weights.

    The cosines of many pairs are shown by their means over the run.
    """
    panels = {what: diagnosis_curves(records, what) for what in TITLES}
    panels = {what: curves for what, curves in panels.items() if curves}
    if not panels:
        return
    figure = Figure(figsize=(4.8 * len(panels), 4.2), layout="constrained")
    for column, (what, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), column)
        axes.set_title(TITLES[what])
        if what == "cosine" and len(curves) > MOST_PAIRS:
            _draw_means(axes, list(panels["gradient_norm"]), curves)
        else:
            _draw_lines(axes, curves, logarithmic=what != "cosine")
    _write(figure, path)


def _draw_lines(axes: Axes, curves: Curves, logarithmic: bool) -> None:
    for name, (steps, values) in curves.items():
        axes.plot(steps, values, label=_short(name))
    if logarithmic and all(value > 0 for _, values in curves.values() for value in values):
        axes.set_yscale("log")
    else:
        axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _draw_means(axes: Axes, names: list[str], curves: Curves) -> None:
    """Draw a map of the mean cosine of each pair."""
    ticks = range(len(names))
    means = {name: fmean(values) for name, (_, values) in curves.items()}
    table = [[1.0 if a == b else means.get(f"{a}·{b}", means.get(f"{b}·{a}", 0.0)) for b in names] for a in names]
    axes.imshow(table, vmin=-1, vmax=1, cmap="coolwarm")
    for row, column in itertools.product(ticks, ticks):
        axes.text(column, row, f"{table[row][column]:.2f}", ha="center", va="center", fontsize="x-small")
    axes.set_xticks([])  # as the rows
    axes.set_yticks(ticks, [_short(name) for name in names])


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _write(figure: Figure, path: Path) -> None:
    with new_file(path) as file:
        figure.savefig(file, format="png", dpi=120)
