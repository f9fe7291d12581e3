"""The kinds of tasks: their losses, and what their labels may be.

What depends on the kind stands in one place per layer: here, in `recmtl.models.links` (from logits to predictions) and
in `recmtl.evaluate.measures` (metrics). To add a kind is to add an entry to each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

KindName = Literal["binary", "regression"]
RankingName = Literal["pairwise", "listwise"]


@dataclass(frozen=True)
class TaskKind:
    """What the schema knows of a kind of task.

    Args:
        losses: The losses a task can have; it takes the first by default.
        low: The lowest label.
        high: The highest label.
        rankings: The ranking losses a task can have.
        pos_weight: Whether it has positives, whose loss can be weighted.
        label_smoothing: Whether its labels are shares of classes, which can be smoothed.
    """

    losses: tuple[str, ...]
    low: float = float("-inf")
    high: float = float("inf")
    rankings: tuple[RankingName, ...] = ()
    pos_weight: bool = False
    label_smoothing: bool = False


TASK_KINDS: Mapping[KindName, TaskKind] = {
    "binary": TaskKind(("bce", "focal"), 0, 1, ("pairwise", "listwise"), pos_weight=True, label_smoothing=True),
    "regression": TaskKind(("mse", "mae", "huber"), rankings=("pairwise",)),
}
