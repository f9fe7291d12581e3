"""Plain data from files that may be a stranger's: text, numbers, lists and mappings, no more than can be looked at."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 1 << 28  # of a file that is read whole
MOST_VALUES = 1 << 20  # of a YAML file, those that an alias repeats counted each time
# What PyYAML makes of a value that is not what its tag says, beside its own errors.
FAULTS = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def read_text(path: Path) -> str:
    """Read a file of text whole.

    Raises:
        OSError: It cannot be read, or is no regular file.
        ValueError: It is too large, or not UTF-8.
    """
    if path.exists() and not path.is_file():  # a pipe or a device would be waited for, or has no end
        raise OSError(errno.EINVAL, "it is no file", str(path))
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes, expected at most {MOST_BYTES:,}")
    return path.read_text(encoding="utf-8")


def from_json(text: str) -> Any:
    """Read JSON.

    Raises:
        ValueError: It is none.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def from_yaml(text: str) -> Any:
    """Read YAML that holds plain data.

    Raises:
        ValueError: It is none, holds something else, or more than `MOST_VALUES`.
    """
    try:
        content = yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except FAULTS as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    values, seen = [content], 0
    while values:
        value, seen = values.pop(), seen + 1
        if seen > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES:,} values, those counted each time that aliases repeat")
        if isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, list):
            values += value
        elif isinstance(value, str) and "\0" in value:
            raise ValueError(f"{value[:40]!r} has a NUL character")
        elif not isinstance(value, str | int | float | None):
            raise ValueError(f"expected text, numbers, lists and mappings, got the {type(value).__name__} {value}")
    return content
