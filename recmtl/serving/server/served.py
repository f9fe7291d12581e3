"""A model as a server holds it: what it is called, and whether another may take its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

SPELLINGS = ("format", "separator", "decimal")  # what the manifest says of how a field is written


class ScoringModel(Protocol):
    """What a server needs of a model; `recmtl.Scorer` has it."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The manifest of the exported model."""
        ...

    def score(
        self,
        rows: Any = None,
        *,
        user: Mapping[str, Any] | None = None,
        items: Sequence[Mapping[str, Any]] | None = None,
    ) -> Mapping[str, Any]:
        """Return a number for each row and task."""
        ...


@dataclass(frozen=True)
class Contract:
    """What clients rely on.

    Args:
        fields: The fields that they send, with their kinds.
        spellings: How they write the values of a field: the format of times, the separator of lists, the decimal mark.
        ignored: Further fields that they may send.
        tasks: The tasks that they read, with their kinds.
        classes: The classes of each multi-class task.
    """

    fields: Mapping[str, str]
    spellings: Mapping[str, Mapping[str, str]]
    ignored: Sequence[str]
    tasks: Mapping[str, str]
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Contract:
        """Return the contract of a model from its manifest."""
        fields = {field["name"]: field for field in metadata["request"]}
        return cls(
            {name: str(field["kind"]) for name, field in fields.items()},
            {name: {key: str(field[key]) for key in SPELLINGS if key in field} for name, field in fields.items()},
            list(metadata["ignored"]),
            {task["name"]: str(task["kind"]) for task in metadata["tasks"]},
            {task["name"]: list(task["classes"]) for task in metadata["tasks"] if "classes" in task},
        )

    def breach(self, new: Contract) -> str | None:
        """Return why clients of this contract cannot be served by a new one, or ``None`` if they can."""
        return next(self._breaches(new), None)

    def _breaches(self, new: Contract) -> Iterator[str]:
        for name in self.fields.keys() - new.fields.keys():
            yield f"it does not know the field {name!r}, which clients send"
        for name, kind in new.fields.items():
            if name not in self.fields:
                yield f"it needs the field {name!r}, which clients do not send"
            elif kind != self.fields[name]:
                yield f"its field {name!r} is {kind}, clients send {self.fields[name]}"
            else:
                for key in SPELLINGS:
                    now, before = (own.spellings[name].get(key) for own in (new, self))
                    if now != before:
                        shown = ["the default" if value is None else repr(value) for value in (now, before)]
                        yield f"the {key} of its field {name!r} is {shown[0]}, clients write {shown[1]}"
        for name in self.ignored:
            if name not in new.ignored:
                yield f"it refuses the field {name!r}, which clients may send and the model before ignored"
        for name, kind in self.tasks.items():
            if name not in new.tasks:
                yield f"it has no task {name!r}"
            elif kind != new.tasks[name]:
                yield f"its task {name!r} is {new.tasks[name]}, clients read {kind}"
            elif list(self.classes.get(name, ())) != list(new.classes.get(name, ())):
                yield f"its task {name!r} has other classes than clients read"


@dataclass(frozen=True)
class ServedModel:
    """A model with its version, which names the export: the fingerprint of all of its files."""

    model: ScoringModel
    version: str
    contract: Contract

    @classmethod
    def of(cls, model: ScoringModel) -> ServedModel:
        """Name a model that was loaded."""
        return cls(model, str(model.metadata["fingerprint"]), Contract.of(model.metadata))
