"""Checks of the options of features, tasks and schemas."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, get_args

from recmtl.errors import SchemaError

LARGEST_COUNT = (1 << 31) - 8  # ids are int32, and some are reserved


def check_nonempty(instance: Any, *options: str) -> None:
    """Check that options are non-empty text; ``None`` passes where it is the default."""
    for option in options:
        value = getattr(instance, option)
        if not (isinstance(value, str) and value) and not _is_default_none(instance, option):
            raise _invalid(instance, option, "must be non-empty text")


def check_count(instance: Any, *options: str) -> None:
    """Check that options are integers from 1 that fit an id; ``None`` passes where it is the default."""
    for option in options:
        value = getattr(instance, option)
        if not (type(value) is int and value >= 1) and not _is_default_none(instance, option):
            raise _invalid(instance, option, "must be an integer of at least 1")
        if value is not None and value > LARGEST_COUNT:
            raise _invalid(instance, option, f"must be at most {LARGEST_COUNT:,}")


def check_separator(instance: Any, option: str) -> None:
    """Check that an option is one character that can separate CSV columns, or ``None``."""
    value = getattr(instance, option)
    if value is not None and not (isinstance(value, str) and re.fullmatch(r'[^"\r\n\0\x80-\U0010ffff]', value)):
        raise _invalid(instance, option, "must be one ASCII character, neither a quote nor a line break")


def check_limits(instance: Any, option: str) -> None:
    """Check that an option is a pair of limits, either of them ``None``, and make it a tuple; ``None`` passes."""
    pair = getattr(instance, option)
    if pair is None:
        return
    limits = [limit for limit in pair if limit is not None] if isinstance(pair, list | tuple) else []
    if not limits or len(pair) != 2 or not all(map(is_number, limits)) or (len(limits) == 2 and pair[0] >= pair[1]):
        raise _invalid(instance, option, "must be [low, high] with low below high, one of which may be null")
    object.__setattr__(instance, option, tuple(pair))


def check_flag(instance: Any, option: str) -> None:
    """Check that an option is true or false."""
    if not isinstance(getattr(instance, option), bool):
        raise _invalid(instance, option, "must be true or false")


def check_choice(instance: Any, option: str, choices: Any) -> None:
    """Check that an option is one of the values of a ``Literal``."""
    if getattr(instance, option) not in get_args(choices):
        raise _invalid(instance, option, f"must be one of {', '.join(map(repr, get_args(choices)))}")


def check_list(value: Any, name: str, source: str) -> Sequence[Any]:
    """Check that a value is a list or a tuple, and return it."""
    if not isinstance(value, list | tuple):
        raise SchemaError(f"{source}: `{name}` must be a list, got {value!r}")
    return value


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_default_none(instance: Any, option: str) -> bool:
    return getattr(instance, option) is None and getattr(type(instance), option, ...) is None


def _invalid(instance: Any, option: str, expected: str) -> SchemaError:
    owner = type(instance).__name__ + (f" {instance.name!r}" if hasattr(instance, "name") else "")
    return SchemaError(f"{owner}: `{option}` {expected}, got {getattr(instance, option)!r}")
