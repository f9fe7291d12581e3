"""TODO."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Curves = dict[str, tuple[list[int], list[float]]]  # by name: steps and values


def loss_curves(records: Iterable[Mapping[str, Any]]) -> Curves:
    """Collect the training loss of each objective from the lines of `metrics.jsonl`."""
    return _collected((record["step"], record.get("loss", {})) for record in records)


def metric_curves(records: Iterable[Mapping[str, Any]]) -> Curves:
    """Collect the main validation metric of each task (the AUC of a binary one) from the lines of `metrics.jsonl`."""
    return _collected((record["step"], dict(map(_main, record.get("valid", {}).items()))) for record in records)


def _main(measured: tuple[str, Mapping[str, float | None]]) -> tuple[str, float | None]:
    task, metrics = measured
    name = next(iter(metrics))
    return f"{task} {name}", metrics[name]


def diagnosis_curves(records: Iterable[Mapping[str, Any]], what: str) -> Curves:
    """Collect one of the measurements of a diagnosis, such as `cosine`, from the lines of `metrics.jsonl`."""
    return _collected((record["step"], record.get("diagnosis", {}).get(what, {})) for record in records)


def weight_curves(records: Iterable[Mapping[str, Any]]) -> Curves:
    """Collect the task weights from the lines of `metrics.jsonl`, those of a diagnosis among them."""
    found: dict[int, Mapping[str, float | None]] = {}
    for record in records:
        weights = record.get("weight") or record.get("diagnosis", {}).get("weight")
        if weights:
            found[record["step"]] = weights
    return _collected(found.items())


def _collected(measured: Iterable[tuple[int, Mapping[str, float | None]]]) -> Curves:
    curves: Curves = {}
    for step, named in measured:
        for name, value in named.items():
            if value is not None:
                steps, values = curves.setdefault(name, ([], []))
                steps.append(step)
                values.append(value)
    return curves
