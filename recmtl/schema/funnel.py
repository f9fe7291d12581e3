"""Funnels: labels each of which happens only after another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from recmtl.errors import SchemaError
from recmtl.schema.tasks import Task

EXPECTED = "expected labels in their order, such as [click, cart, pay], or each label with the one before it"


@dataclass(frozen=True, init=False, repr=False)
class Funnel:
    """Binary labels each of which happens only after another one: a chain or a tree.

    Each step has a *joint* rate, its label over all rows, and a *conditional* one, its label among rows where the step
    before happened; of a first step both are one. Reports show all of them, whichever a model predicts, and they agree:
    the joint rate of a step is that of the step before times its conditional one.

    A rate has the name of the schema's task with its label and condition. Otherwise those of two steps are named
    ``ctr``, ``cvr`` and ``ctcvr``, and those of longer funnels like their labels: ``pay`` and ``pay_given_cart``.

    Args:
        labels: The label columns of a chain, in their order.
        parents: Instead, of each label column the one that must have happened before it; ``None`` for a first step.

    Raises:
        SchemaError: There are fewer than two labels, a label is named twice, comes before itself, or follows one that
            is none of the labels, or no label follows another.

    Example:
        >>> Funnel("click", "cart", "pay").parents
        {'click': None, 'cart': 'click', 'pay': 'cart'}
        >>> Funnel(parents={"click": None, "like": "click", "share": "click"})
        Funnel(parents={'click': None, 'like': 'click', 'share': 'click'})
    """

    steps: tuple[tuple[str, str | None], ...]  # label and the one before it, which stands before it

    def __init__(self, *labels: str, parents: Mapping[str, str | None] | None = None) -> None:
        if labels and parents is not None:
            raise SchemaError(f"a funnel has labels in their order or `parents`, got both: {labels} and {parents}")
        given = list(parents.items()) if parents is not None else list(zip(labels, (None, *labels), strict=False))
        check_steps(given)
        object.__setattr__(self, "steps", tuple(_ordered(given)))

    def __repr__(self) -> str:
        return f"Funnel({', '.join(map(repr, self.labels)) if self.is_chain else f'parents={self.parents}'})"

    @property
    def labels(self) -> tuple[str, ...]:
        """The label columns; each follows the one that must have happened before."""
        return tuple(label for label, _ in self.steps)

    @property
    def parents(self) -> dict[str, str | None]:
        """Of each label the one that must have happened before it, ``None`` of a first step."""
        return dict(self.steps)

    @property
    def is_chain(self) -> bool:
        """Whether each label follows the one that stands before it."""
        return [parent for _, parent in self.steps] == [None, *self.labels[:-1]]

    def ancestors(self, label: str | None) -> tuple[str, ...]:
        """Return the labels that must have happened before one, the nearest first; none of a label of no step."""
        parents, found = self.parents, list[str]()
        while label is not None and (label := parents.get(label)) is not None:
            found.append(label)
        return tuple(found)

    def rates(self, tasks: Sequence[Task]) -> tuple[StepRates, ...]:
        """Return the rates of each step, which are tasks: those given that have their label and condition, or new ones.

        Args:
            tasks: The tasks of a schema.
        """
        own = {(task.label, task.given): task for task in reversed(tasks) if task.kind == "binary"}
        taken = {task.name for task in tasks}
        two = ("ctr", "cvr", "ctcvr") if self.is_chain and len(self.steps) == 2 else None

        def rate(place: int, label: str, given: str | None = None) -> Task:
            described = f"{label}_given_{given}" if given else label
            name = two[place] if two and two[place] not in taken else described
            return own.get((label, given)) or Task(name, label, given)

        found = []
        for label, parent in self.steps:
            joint = rate(0 if parent is None else 2, label)
            before = self.ancestors(label)
            further = tuple(own[label, given] for given in before[1:] if (label, given) in own)
            found.append(StepRates(label, parent, rate(1, label, parent) if parent else joint, joint, further))
        return tuple(found)

    def to_card(self) -> list[str] | dict[str, str | None]:
        """Return the funnel as it stands on a card: a list of labels, or each with the one before it."""
        return list(self.labels) if self.is_chain else self.parents

    @classmethod
    def from_card(cls, entry: Any, source: str) -> Funnel:
        """Return the funnel of a card's entry.

        Args:
            entry: A list of labels, or a mapping from each label to the one before it.
            source: The name of the card for errors.

        Raises:
            SchemaError: The entry is none, or its labels are no funnel.
        """
        if isinstance(entry, Funnel):
            return entry
        try:
            if isinstance(entry, Mapping):
                return cls(parents=entry)
            if isinstance(entry, list | tuple):
                return cls(*entry)
        except SchemaError as error:
            raise SchemaError(f"{source}: {error}") from None
        raise SchemaError(f"{source}: no `funnel`: {EXPECTED}, got {entry!r}")


class StepRates(NamedTuple):
    """The rates of one step of a funnel.

    Args:
        label: The label column.
        parent: That of the step before; ``None`` of a first step.
        conditional: Its rate among rows where the step before happened; of a first step the joint rate.
        joint: Its rate over all rows.
        further: Rates on condition of earlier steps, of which the schema has tasks.
    """

    label: str
    parent: str | None
    conditional: Task
    joint: Task
    further: tuple[Task, ...] = ()

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The rates, in the order of reports."""
        return tuple(dict.fromkeys((self.conditional, *self.further, self.joint)))


def check_steps(given: Sequence[tuple[str, str | None]]) -> None:
    """Check labels, each with the one before it, apart from their order."""
    labels = [label for label, _ in given]
    for name in (name for step in given for name in step):
        if name is not None and not (isinstance(name, str) and name):
            raise SchemaError(f"the labels of a funnel must be names of columns, got {name!r}")
    if None in labels:
        raise SchemaError("the labels of a funnel must be names of columns, got None")
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise SchemaError(f"the label {twice!r} stands twice in a funnel")
    for label, parent in given:
        if parent is not None and parent not in labels:
            raise SchemaError(
                f"the label {label!r} of a funnel follows {parent!r}, which is none of its labels "
                f"({', '.join(labels)}): name it, too, with none before it if it is the first"
            )
    if not any(parent for _, parent in given):
        raise SchemaError(f"a funnel needs at least two labels of which one follows another, got {labels}")


def _ordered(given: Sequence[tuple[str, str | None]]) -> Iterator[tuple[str, str | None]]:
    """Yield steps so that each follows its parent, and otherwise in their order."""
    left: list[tuple[str, str | None]] = list(given)
    known: set[str | None] = {None}
    while left:
        step = next((step for step in left if step[1] in known), None)
        if step is None:
            raise SchemaError(
                f"the labels {', '.join(label for label, _ in left)} of a funnel follow each other in a circle"
            )
        left.remove(step)
        known.add(step[0])
        yield step
