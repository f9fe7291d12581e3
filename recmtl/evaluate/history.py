"""Curves over the steps of a training, from the lines of `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Records = Iterable[Mapping[str, Any]]  # the lines of `metrics.jsonl`
Curves = dict[str, tuple[list[int], list[float]]]  # steps and values by name


def loss_curves(records: Records) -> Curves:
    """Return the training loss of each objective."""
    return _curves((record["step"], record.get("loss", {})) for record in records)


def metric_curves(records: Records) -> Curves:
    """Return the main validation metric of each task (AUC of a binary one)."""
    return _curves((record["step"], dict(map(_main_metric, record.get("valid", {}).items()))) for record in records)


def _main_metric(measured: tuple[str, Mapping[str, float | None]]) -> tuple[str, float | None]:
    task, metrics = measured
    name = next(iter(metrics))
    return f"{task} {name}", metrics[name]


def diagnosis_curves(records: Records, what: str) -> Curves:
    """Return a statistic of the tasks' gradients: `cosine` by pair of tasks, or `gradient_norm` by task."""
    return _curves((record["step"], record.get("diagnosis", {}).get(what, {})) for record in records)


def weight_curves(records: Records) -> Curves:
    """Return the task weights, including those logged with the gradient statistics."""
    by_step: dict[int, Mapping[str, float | None]] = {}
    for record in records:
        weights = record.get("weight") or record.get("diagnosis", {}).get("weight")
        if weights:
            by_step[record["step"]] = weights
    return _curves(by_step.items())


def _curves(measured: Iterable[tuple[int, Mapping[str, float | None]]]) -> Curves:
    curves: Curves = {}
    for step, values_by_name in measured:
        for name, value in values_by_name.items():
            if value is not None:
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    return curves
