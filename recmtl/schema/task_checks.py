"""Checks of the tasks of a schema against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from recmtl.errors import SchemaError
from recmtl.schema.task_kinds import TASK_KINDS
from recmtl.schema.tasks import Task


def check_prediction_names(tasks: Sequence[Task], reported: Sequence[Task], named: Mapping[str, Sequence[str]]) -> None:
    """Check that each column of predictions has a name of its own.

    Args:
        tasks: The tasks of the schema.
        reported: Those and the rates of its funnel.
        named: Other columns of predictions by what they are.

    Raises:
        SchemaError: Two predictions, or a prediction and another column, have the same name.
    """
    names = [task.name for task in reported]
    for task in tasks:
        if names.count(task.name) > 1:
            raise SchemaError(f"task {task.name!r} differs from the funnel's {task.name!r}: rename the task")
    columns = Counter(column for task in reported for column in task.columns)
    for column, count in columns.items():
        if count > 1:
            raise SchemaError(f"two predictions are named {column!r}, after a task or its class: rename a task")
    for what, key in ((what, key) for what, keys in named.items() for key in keys):
        if not isinstance(key, str):
            raise SchemaError(f"`keys` must be column names, got {key!r}")
        if key in columns or key in names:
            raise SchemaError(f"{what} {key!r} has the name of a task: rename the task")


def lowest_label(tasks: Sequence[Task], label: str) -> float:
    """Return the lowest value that a label column can have by the kinds of its tasks."""
    return max((TASK_KINDS[task.kind].low for task in tasks if task.label == label), default=float("-inf"))


def check_class_labels(tasks: Sequence[Task], conditions: Collection[str]) -> None:
    """Check that a label column of classes is nothing else, as it is stored by the numbers of its classes.

    Raises:
        SchemaError: It is the label of a task of another kind or with other classes, or a condition.
    """
    for task in (task for task in tasks if task.has_classes):
        if task.label in conditions:
            raise SchemaError(
                f"label {task.label!r} of the multiclass task {task.name!r} cannot be a condition as well"
            )
        for other in (other for other in tasks if other.label == task.label):
            said = (other.kind, other.classes, other.unknown_classes)
            if said != (task.kind, task.classes, task.unknown_classes):
                raise SchemaError(
                    f"tasks {task.name!r} and {other.name!r} read the classes of label {task.label!r} in two ways: "
                    "give one of them a copy of the column"
                )


def check_roles(tasks: Sequence[Task], group: str | None, weight: str | None, carried: Sequence[str]) -> None:
    """Check that ranking losses have a group, and that the weights of tasks are no row weight, group or key."""
    for task in tasks:
        if task.ranking_loss and group is None:
            raise SchemaError(f"the `ranking_loss` of task {task.name!r} needs a `group`, whose rows it compares")
        if task.weight_column and task.weight_column in (weight, *carried):
            other = "row weight" if task.weight_column == weight else "group or a key"
            raise SchemaError(
                f"task {task.name!r}: `weight_column` {task.weight_column!r} is the {other} as well: name another one"
            )
