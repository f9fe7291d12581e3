"""The kinds of tasks: their losses, and what their labels may be.

What depends on the kind stands in one place per layer: here, in `recmtl.models.links` (from logits to predictions) and
in `recmtl.evaluate.measures` (metrics). To add a kind is to add an entry to each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

KindName = Literal["binary", "regression"]


@dataclass(frozen=True)
class TaskKind:
    """What the schema knows of a kind of task.

    Args:
        losses: The losses a task can have; it takes the first by default.
        low: The lowest label.
        high: The highest label.
    """

    losses: tuple[str, ...]
    low: float = float("-inf")
    high: float = float("inf")


TASK_KINDS: Mapping[KindName, TaskKind] = {
    "binary": TaskKind(("bce", "focal"), 0, 1),
    "regression": TaskKind(("mse", "mae", "huber")),
}
