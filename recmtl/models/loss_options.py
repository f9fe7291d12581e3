"""Options of a task that change its loss alone, which a task without a loss cannot have."""

from __future__ import annotations

from collections.abc import Sequence

from recmtl.schema import Task
from recmtl.schema.card_entries import changed_options

LOSS_OPTIONS = ("weight", "loss", "pos_weight", "label_smoothing", "ranking_loss")


def loss_options(task: Task) -> list[str]:
    """Return those options of a task's loss, in backticks, that differ from their defaults."""
    return [f"`{name}`" for name in LOSS_OPTIONS if name in changed_options(task)]


def check_untrained(model: str, tasks: Sequence[Task], objectives: Sequence[Task]) -> None:
    """Check that tasks without a loss, of a model of that name, have no option that would change one.

    Raises:
        ValueError: One has.
    """
    named = {task.name for task in objectives}
    for task in (task for task in tasks if task.name not in named):
        if found := loss_options(task):
            trained = ", ".join(f"{one.name} (label {one.label!r})" for one in objectives)
            raise ValueError(
                f"{model} has no loss of task {task.name!r}, in which its {' and '.join(found)} would count: "
                f"leave out such options, or give them to tasks whose losses it trains, which are {trained}"
            )
