"""Checks that features and tasks make of their options."""

from __future__ import annotations

from typing import Any, get_args


class SchemaError(ValueError):
    """A schema, dataset card or column that cannot be used, said in one sentence."""


def at_least_one(instance: Any, *names: str) -> None:
    """Check that options are ``None`` or integers from 1."""
    for name in names:
        value = getattr(instance, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise SchemaError(f"feature {instance.name!r}: `{name}` must be an integer from 1, got {value!r}")


def one_of(instance: Any, name: str, choices: Any) -> None:
    """Check that an option is one of the values of a ``Literal``."""
    if getattr(instance, name) not in get_args(choices):
        what = type(instance).__name__
        raise SchemaError(
            f"{what} {instance.name!r}: `{name}` must be one of {get_args(choices)}, got {getattr(instance, name)!r}"
        )
