"""Tasks: what a model predicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recmtl.errors import SchemaError
from recmtl.io.import_paths import is_import_path, path_of
from recmtl.schema.task_kinds import TASK_KINDS, KindName, RankingName
from recmtl.schema.validation import check_choice, check_nonempty, is_number

RowFunction = Callable[[Any, Any], Any]
"""A loss of one's own, from logits ``[B]`` and labels ``[B]`` to the loss of each row ``[B]``."""
LabelKey = tuple[str | None, ...]
"""A label column, the condition of its rows, and the column of their weights if they have any beside the row weight."""


@dataclass(frozen=True)
class Task:
    """One prediction target.

    A row whose label is missing (empty or NaN), or whose ``given`` is not 1, does not count for the task.

    Args:
        name: The name in reports and predictions.
        label: The label column: 0 or 1 for a binary task, or between them (a soft label y is a positive of weight y and
            a negative of weight 1 − y), any number for a regression, and the name of a class, text or a number, for a
            multi-class task, and a number of at least 0 for an amount: a count, seconds, money.
        given: A binary column; only rows where it is 1 count (``click`` for a conversion rate among clicks).
        kind: ``binary``, ``regression``, ``multiclass`` or ``amount``.
        weight: The factor on the task's loss.
        loss: ``bce`` or ``focal`` for a binary task, ``mse``, ``mae`` or ``huber`` for a regression,
            taken on the label standardized by the training rows' mean and deviation, ``ce``, the cross-entropy of the
            soft-max, for a multi-class task; for an amount ``poisson``, ``tweedie`` (of power 1.5) or ``ziln``, the
            likelihood of a zero-inflated log-normal distribution. ``None`` takes the first of these.
            A loss of your own is a function from logits ``[B]`` and labels ``[B]`` to the loss of each row ``[B]``, or
            its import path, ``my_losses.asymmetric``.
        weight_column: A column with a weight of each row for this task alone, a number from 0, times the schema's
            `weight`: in the loss, in metrics, and in the statistics of the label.
        pos_weight: How much positives of a binary task count in its loss, relative to negatives. Predictions stay
            probabilities of the label, as the loss takes the shift out of them; see `with_pos_weight`.
        label_smoothing: Of a binary or a multi-class task: ε, the share of each label that is replaced by the label
            rate, or by those of the classes, in the training loss alone.
        ranking_loss: ``pairwise`` or, of labels from 0, ``listwise``: a loss over the rows of each `group` of the
            schema, beside the other one; ``None`` for none. A multi-class task has none, as its classes have no order.
        ranking_weight: Its factor.
        classes: The classes of a multi-class task, in the order of the predictions. Empty takes those of the training
            rows: numbers by value, text in the order of its code points.
        unknown_classes: What becomes of a label that is none of `classes`: an ``error``, or ``ignore``, with which the
            row does not count for the task. Classes of the training rows ignore others, and a note says how many.
    """

    name: str
    label: str
    given: str | None = None
    kind: KindName = "binary"
    weight: float = 1.0
    loss: str | RowFunction | None = None
    weight_column: str | None = None
    pos_weight: float = 1.0
    label_smoothing: float = 0.0
    ranking_loss: RankingName | None = None
    ranking_weight: float = 1.0
    classes: Sequence[str | int | float | bool] = ()
    unknown_classes: Literal["error", "ignore"] = "error"

    def __post_init__(self) -> None:
        """Check the options."""
        check_nonempty(self, "name", "label", "given", "weight_column")
        check_choice(self, "kind", KindName)
        check_choice(self, "unknown_classes", Literal["error", "ignore"])
        object.__setattr__(self, "classes", checked_classes(self))
        losses = TASK_KINDS[self.kind].losses
        if not (self.loss is None or self.loss in losses or self.own_loss):
            raise SchemaError(
                f"Task {self.name!r}: `loss` of a {self.kind} task must be one of {', '.join(losses)}, or the import "
                f"path of your own (`my_losses.asymmetric`), got {self.loss!r}"
            )
        for name in ("weight", "ranking_weight"):
            if not (is_number(value := getattr(self, name)) and value >= 0):
                raise SchemaError(f"Task {self.name!r}: `{name}` must be a number of at least 0, got {value!r}")
        if not (is_number(self.pos_weight) and self.pos_weight > 0):
            raise SchemaError(f"Task {self.name!r}: `pos_weight` must be a number above 0, got {self.pos_weight!r}")
        if not (is_number(self.label_smoothing) and 0 <= self.label_smoothing < 1):
            raise SchemaError(
                f"Task {self.name!r}: `label_smoothing` must be a number in [0, 1), got {self.label_smoothing!r}"
            )
        self._check_kind()

    def _check_kind(self) -> None:
        """Check that the kind has what the options change."""
        kind = TASK_KINDS[self.kind]
        has = {"pos_weight": kind.pos_weight, "label_smoothing": kind.label_smoothing, "ranking_loss": kind.rankings}
        for name, possible in has.items():
            if not possible and getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise SchemaError(
                    f"Task {self.name!r}: a {self.kind} task has no `{name}`, got {getattr(self, name)!r}"
                )
        if self.ranking_loss is not None and self.ranking_loss not in kind.rankings:
            raise SchemaError(
                f"Task {self.name!r}: `ranking_loss` of a {self.kind} task must be one of {', '.join(kind.rankings)}, "
                f"got {self.ranking_loss!r}"
            )

    @property
    def has_classes(self) -> bool:
        """Whether the labels are names of classes."""
        return TASK_KINDS[self.kind].has_classes

    @property
    def outputs(self) -> int:
        """The number of logits of a row: one, or that of the classes or of the parameters of its distribution."""
        return len(self.classes) if self.has_classes else TASK_KINDS[self.kind].outputs.get(self.loss_name, 1)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the predictions in tables: the task's name, or ``NAME_CLASS`` for each class."""
        return tuple(f"{self.name}_{name}" for name in self.classes) if self.has_classes else (self.name,)

    @property
    def loss_name(self) -> str:
        """The name of the loss: the given one, or the first of the kind."""
        return path_of(self.loss or TASK_KINDS[self.kind].losses[0])

    @property
    def own_loss(self) -> bool:
        """Whether the loss is a function of the user's own."""
        return is_import_path(self.loss) or (callable(self.loss) and not isinstance(self.loss, type))

    @property
    def label_key(self) -> LabelKey:
        """What the statistics of its label are known by."""
        return (self.label, self.given, *([self.weight_column] if self.weight_column else []))


def checked_classes(task: Task) -> tuple[str, ...]:
    """Return the classes of a task as text, as which they stand in vocabularies and files."""
    given = task.classes
    if not isinstance(given, list | tuple):
        raise SchemaError(f"Task {task.name!r}: `classes` must be a list, got {given!r}")
    if given and not TASK_KINDS[task.kind].has_classes:
        raise SchemaError(f"Task {task.name!r}: only a multiclass task has `classes`, got a {task.kind} task")
    unread = [value for value in given if not isinstance(value, str | int | float)]
    if unread or 0 < sum(isinstance(value, bool) for value in given) < len(given):
        raise SchemaError(
            f"Task {task.name!r}: `classes` must all be text, numbers or booleans, got {list(given)}: on a card put "
            "words that YAML reads otherwise, such as yes, no, on, off and null, in quotes"
        )
    classes = tuple(class_name(value) for value in given)
    if given and len(set(classes)) < max(2, len(classes)):
        raise SchemaError(f"Task {task.name!r}: `classes` must be two or more, each once, got {list(given)}")
    return classes


def class_name(value: object) -> str:
    """Return the name of a class as text: whole floats as integers, booleans as ``true`` and ``false``."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def in_class_order(classes: Sequence[str]) -> tuple[str, ...]:
    """Return classes in order: numbers by value, if all are, and otherwise text by its code points."""
    try:
        return tuple(sorted(classes, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(classes))


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
