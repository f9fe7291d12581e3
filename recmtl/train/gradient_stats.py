"""Norms and cosines of the task gradients: their record in the log, and a summary per pair of tasks."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from torch import Tensor

from recmtl.balance import Balancer, GradientStats
from recmtl.models import RankingModel
from recmtl.train.monitor import host_copies, named_values


def diagnosis(model: RankingModel, balancer: Balancer, losses: Tensor, stats: GradientStats) -> dict[str, Any]:
    """Return the losses ``[K]`` of a step, its weights and gradient statistics by name, for the log."""
    read = host_copies({"loss": losses, "weight": balancer.weights, **stats._asdict()})
    found = gradient_stats_record(model.task_losses.names, GradientStats(read["norms"], read["cosines"]))
    return {
        "loss": named_values(model.loss_names[: len(losses)], read["loss"]),
        "weight": named_values(balancer.labels, read["weight"]),
        **found,
    }


def gradient_stats_record(names: Sequence[str], stats: GradientStats) -> dict[str, dict[str, float | None]]:
    """Return the gradient norm of each task and the cosine of each pair by name. Waits for the device."""
    cosines = stats.cosines.tolist()
    pairs = itertools.combinations(range(len(names)), 2)
    return {
        "gradient_norm": named_values(names, stats.norms),
        "cosine": {f"{names[i]}·{names[j]}": cosines[i][j] for i, j in pairs},
    }


class PairSummary(NamedTuple):
    """The gradients of two tasks over a training."""

    pair: tuple[str, str]
    measurements: int  # in which both had a gradient
    cosine: float  # the mean
    conflicts: float  # the share of measurements with a cosine below 0
    size_ratio: float  # the median of the first norm over the second


def summarize_pairs(records: Iterable[Mapping[str, Any]]) -> list[PairSummary]:
    """Summarize the records of `metrics.jsonl` for each pair of tasks."""
    measured = [record["diagnosis"] for record in records if "diagnosis" in record]
    names = list(measured[0]["gradient_norm"]) if measured else []
    return [s for first, second in itertools.combinations(names, 2) for s in _summarize_pair(measured, first, second)]


def _summarize_pair(measured: list[Mapping[str, Any]], first: str, second: str) -> list[PairSummary]:
    norms = [(m["gradient_norm"][first], m["gradient_norm"][second]) for m in measured]
    both = [all(pair) for pair in norms]
    cosines = [m["cosine"][f"{first}·{second}"] for m in itertools.compress(measured, both)]
    if not cosines:
        return []
    conflicts = fmean(cosine < 0 for cosine in cosines)
    ratio = median(a / b for a, b in itertools.compress(norms, both))
    return [PairSummary((first, second), len(cosines), fmean(cosines), conflicts, ratio)]
