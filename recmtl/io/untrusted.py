"""Read files from untrusted sources: plain data of bounded size."""

from __future__ import annotations

import errno
import json
from datetime import date
from pathlib import Path
from typing import Any

import yaml

MAX_TEXT_BYTES = 1 << 28
MAX_YAML_VALUES = 1 << 20  # aliases count as often as they are used
# Also what PyYAML raises for a value that does not fit its tag.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


def read_text(path: Path) -> str:
    """Read a regular file; a text that is too large, or not UTF-8, raises `ValueError`."""
    if path.exists() and not path.is_file():  # reading a pipe or a device may block or never end
        raise OSError(errno.EINVAL, "it is no file", str(path))
    size = path.stat().st_size
    if size > MAX_TEXT_BYTES:
        raise ValueError(f"it has {size:,} bytes, expected at most {MAX_TEXT_BYTES:,}")
    return path.read_text(encoding="utf-8")


def from_json(text: str) -> Any:
    """Parse JSON; any fault is a `ValueError`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def from_yaml(text: str) -> Any:
    """Parse YAML of text, numbers, lists and mappings; other values, or too many, raise `ValueError`."""
    try:
        content = yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except YAML_ERRORS as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error
    values, seen = [content], 0
    while values:
        value, seen = values.pop(), seen + 1
        if seen > MAX_YAML_VALUES:
            raise ValueError(f"it has more than {MAX_YAML_VALUES:,} values, aliases counted each time")
        if isinstance(value, dict):
            values += [*value, *value.values()]
        elif isinstance(value, list):
            values += value
        elif isinstance(value, str) and "\0" in value:
            raise ValueError(f"{value[:40]!r} has a NUL character")
        elif not isinstance(value, str | int | float | None):
            quotes = ": put it in quotes" if isinstance(value, date) else ""
            found = f"the {type(value).__name__} {value}{quotes}"
            raise ValueError(f"expected text, numbers, lists and mappings, got {found}")
    return content
