"""Features and tasks from the entries of a dataset card, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from recmtl.did_you_mean import did_you_mean
from recmtl.errors import SchemaError
from recmtl.io.import_paths import UntrustedPath, path_of
from recmtl.schema.features import KINDS, Feature


def build_feature(entry: Any, source: str) -> Feature:
    """Return the feature of an entry, whose kind is one of its keys."""
    kinds = [k for k in KINDS if isinstance(entry, Mapping) and k in entry]
    if len(kinds) != 1:
        raise SchemaError(f"{source}: a feature must have exactly one of {', '.join(KINDS)}, got {entry!r}")
    options = {("name" if k == kinds[0] else k): v for k, v in entry.items()}
    feature: Feature = build(KINDS[kinds[0]], options, source)
    return feature


def build(cls: type[Any], entry: Any, source: str) -> Any:
    """Return an instance of a dataclass with the options of an entry."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    if not isinstance(entry, Mapping):
        raise SchemaError(f"{source}: a {cls.__name__} must be a mapping, got {entry!r}")
    for key in entry:
        if key not in fields:
            others = [c.__name__ for c in KINDS.values() if cls in KINDS.values() and key in c.__dataclass_fields__]
            hint = f": a {' or '.join(others)} has it" if others else did_you_mean(str(key), fields, most=3)
            raise SchemaError(f"{source}: unknown option {key!r} of a {cls.__name__}{hint}")
    required = [n for n, f in fields.items() if f.default is dataclasses.MISSING]
    if not set(required) <= set(entry):
        raise SchemaError(f"{source}: a {cls.__name__} needs {' and '.join(required)}, got {dict(entry)}")
    return cls(**entry)


def changed_options(instance: Any) -> dict[str, Any]:
    """Return the options that differ from their defaults."""
    values = {f.name: (getattr(instance, f.name), f.default) for f in dataclasses.fields(instance)}
    found = {n: v for n, (v, default) in values.items() if default is not dataclasses.MISSING and v != default}
    found = {n: list(v) if isinstance(v, tuple) else v for n, v in found.items()}
    return {n: path_of(v) if isinstance(v, UntrustedPath) or callable(v) else v for n, v in found.items()}


def options_text(instance: Any, *omitted: str) -> str:
    """Return the options that differ from their defaults as text."""
    return ", ".join(f"{n}={v}" for n, v in changed_options(instance).items() if n not in omitted)
