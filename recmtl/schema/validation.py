"""Checks that features and tasks make of their options."""

from __future__ import annotations

import math
import re
from typing import Any, get_args

from recmtl.errors import SchemaError

LARGEST = (1 << 31) - 8  # ids are of 32 bits, and some are reserved


def names(instance: Any, *options: str) -> None:
    """Check that options are text that is not empty; ``None`` passes where it is the default."""
    for option in options:
        value = getattr(instance, option)
        if not (isinstance(value, str) and value) and not _is_default_none(instance, option):
            raise _refused(instance, option, "must be text that is not empty")


def at_least_one(instance: Any, *options: str) -> None:
    """Check that options are integers from 1, no larger than an id can be; ``None`` passes where it is the default."""
    for option in options:
        value = getattr(instance, option)
        if not (type(value) is int and value >= 1) and not _is_default_none(instance, option):
            raise _refused(instance, option, "must be an integer from 1")
        if value is not None and value > LARGEST:
            raise _refused(instance, option, f"must be at most {LARGEST:,}")


def one_character(instance: Any, option: str) -> None:
    """Check that an option is one character that can stand between columns; ``None`` passes."""
    value = getattr(instance, option)
    if value is not None and not (isinstance(value, str) and re.fullmatch(r'[^"\r\n\0\x80-\U0010ffff]', value)):
        raise _refused(instance, option, "must be one ASCII character, neither a quote nor a line break")


def bounds(instance: Any, option: str) -> None:
    """Check that an option is a pair of limits and make it a tuple; ``None`` passes, and may stand for one limit."""
    pair = getattr(instance, option)
    if pair is None:
        return
    limits = [limit for limit in pair if limit is not None] if isinstance(pair, list | tuple) else []
    if not limits or len(pair) != 2 or not all(map(is_number, limits)) or (len(limits) == 2 and pair[0] >= pair[1]):
        raise _refused(instance, option, "must be [low, high] with low below high, one of which may be null")
    object.__setattr__(instance, option, tuple(pair))


def is_flag(instance: Any, option: str) -> None:
    """Check that an option is true or false."""
    if not isinstance(getattr(instance, option), bool):
        raise _refused(instance, option, "must be true or false")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def one_of(instance: Any, option: str, choices: Any) -> None:
    """Check that an option is one of the values of a ``Literal``."""
    if getattr(instance, option) not in get_args(choices):
        raise _refused(instance, option, f"must be one of {get_args(choices)}")


def _is_default_none(instance: Any, option: str) -> bool:
    return getattr(instance, option) is None and getattr(type(instance), option, ...) is None


def _refused(instance: Any, option: str, demand: str) -> SchemaError:
    who = type(instance).__name__ + (f" {instance.name!r}" if hasattr(instance, "name") else "")
    return SchemaError(f"{who}: `{option}` {demand}, got {getattr(instance, option)!r}")
