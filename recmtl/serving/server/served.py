"""A model as a server holds it: what it is called, and whether another may take its place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

DIGITS = 12  # hexadecimal digits of a version


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
    """What clients rely on: the fields that they send, with their kinds, and the tasks that they read."""

    fields: Mapping[str, str]
    tasks: Sequence[str]

    @classmethod
    def of(cls, metadata: Mapping[str, Any]) -> Contract:
        """Return the contract of a model from its manifest."""
        fields = {field["name"]: str(field["kind"]) for field in metadata["request"]}
        return cls(fields, [task["name"] for task in metadata["tasks"]])

    def breach(self, new: Contract) -> str | None:
        """Return why clients of this contract cannot be served by a new one, or ``None`` if they can."""
        for name in self.fields.keys() - new.fields.keys():
            return f"it does not know the field {name!r}, which clients send"
        for name, kind in new.fields.items():
            if name not in self.fields:
                return f"it needs the field {name!r}, which clients do not send"
            if kind != self.fields[name]:
                return f"its field {name!r} is {kind}, clients send {self.fields[name]}"
        missing = [task for task in self.tasks if task not in new.tasks]
        return f"it has no task {missing[0]!r}" if missing else None


@dataclass(frozen=True)
class ServedModel:
    """A model with its version, which names the export: the fingerprint of all of its files."""

    model: ScoringModel
    version: str
    contract: Contract

    @classmethod
    def of(cls, model: ScoringModel) -> ServedModel:
        """Name a model that was loaded."""
        text = json.dumps(model.metadata, sort_keys=True, default=str)
        version = model.metadata.get("fingerprint") or hashlib.sha256(text.encode()).hexdigest()[:DIGITS]
        return cls(model, str(version), Contract.of(model.metadata))
