"""The kinds of tasks: their losses, and what their labels may be.

What depends on the kind stands in one place per layer: here, in `recmtl.models.links` (from logits to predictions) and
in `recmtl.evaluate.measures` (metrics). To add a kind is to add an entry to each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

KindName = Literal["binary", "regression", "multiclass", "amount"]
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
        has_classes: Whether labels are the names of classes rather than numbers.
        outputs: The number of logits of a row, of losses that take more than one.
    """

    losses: tuple[str, ...]
    low: float = float("-inf")
    high: float = float("inf")
    rankings: tuple[RankingName, ...] = ()
    pos_weight: bool = False
    label_smoothing: bool = False
    has_classes: bool = False
    outputs: Mapping[str, int] = field(default_factory=dict)


TASK_KINDS: Mapping[KindName, TaskKind] = {
    "binary": TaskKind(("bce", "focal"), 0, 1, ("pairwise", "listwise"), pos_weight=True, label_smoothing=True),
    "regression": TaskKind(("mse", "mae", "huber"), rankings=("pairwise",)),
    "multiclass": TaskKind(("ce",), label_smoothing=True, has_classes=True),
    "amount": TaskKind(("poisson", "tweedie", "ziln"), 0, rankings=("pairwise", "listwise"), outputs={"ziln": 3}),
}
