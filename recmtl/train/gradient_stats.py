"""What the tasks' gradients on the shared tensors say, over a training."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from recmtl.balance import GradientStats
from recmtl.train.monitor import named_values


def gradient_stats_record(names: Sequence[str], diagnosis: GradientStats) -> dict[str, dict[str, float | None]]:
    """Give one measurement by name: the gradient norm of each task, the cosine of each pair. Waits for the device.

    Args:
        names: The objectives.
        diagnosis: The step's norms and cosines.
    """
    cosines = diagnosis.cosines.tolist()
    pairs = itertools.combinations(range(len(names)), 2)
    return {
        "gradient_norm": named_values(names, diagnosis.norms),
        "cosine": {f"{names[i]}·{names[j]}": cosines[i][j] for i, j in pairs},
    }


class PairSummary(NamedTuple):
    """How two tasks' gradients compare over a training.

    Args:
        pair: The two names.
        measurements: How often both tasks had a gradient.
        cosine: The mean of their cosine.
        conflicts: The share of measurements in which the cosine was below 0.
        size_ratio: The median of the first one's norm over the second one's.
    """

    pair: tuple[str, str]
    measurements: int
    cosine: float
    conflicts: float
    size_ratio: float


def summarize(records: Iterable[Mapping[str, Any]]) -> list[PairSummary]:
    """Compare each pair of tasks over the lines of `metrics.jsonl`."""
    measured = [record["diagnosis"] for record in records if "diagnosis" in record]
    names = list(measured[0]["gradient_norm"]) if measured else []
    return [s for first, second in itertools.combinations(names, 2) for s in _pair(measured, first, second)]


def _pair(measured: list[Mapping[str, Any]], first: str, second: str) -> list[PairSummary]:
    norms = [(m["gradient_norm"][first], m["gradient_norm"][second]) for m in measured]
    both = [all(pair) for pair in norms]
    cosines = [m["cosine"][f"{first}·{second}"] for m in itertools.compress(measured, both)]
    if not cosines:
        return []
    conflicts = fmean(cosine < 0 for cosine in cosines)
    ratio = median(a / b for a, b in itertools.compress(norms, both))
    return [PairSummary((first, second), len(cosines), fmean(cosines), conflicts, ratio)]
