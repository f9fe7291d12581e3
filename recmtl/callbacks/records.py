"""What loggers share: the numbers of a record, and packages that few users need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from numbers import Integral, Real
from typing import Any

from recmtl.errors import RunError, shown

POSITION = ("step", "epoch")  # where a record stands, beside what was measured


def flatten_numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a record, each with the path to it: `diagnosis/cosine/ctr·cvr`."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from flatten_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and math.isfinite(value) and (prefix or name not in POSITION):
            yield prefix + name, value


def logged(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a callback logs as plain data, ``None`` for numbers that are not finite.

    Raises:
        ValueError: It is no mapping, or holds something else than numbers, text, lists and mappings by name, or a name
            of where the record stands.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"`context.log` takes a mapping of numbers by name, got {shown(content)}")
    if taken := [name for name in POSITION if name in content]:
        raise ValueError(f"`context.log` adds {taken[0]!r} itself: leave it out")
    found: dict[str, Any] = _plain(content)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if wrong := [name for name in value if not isinstance(name, str)]:
            raise ValueError(f"`context.log` takes text as names, got {shown(wrong[0])}")
        return {str(name): _plain(below) for name, below in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(below) for below in value]
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    raise ValueError(f"`context.log` takes numbers, text, lists and mappings, got {shown(value)}")


def require(module: str, user: object, extra: str) -> None:
    """Raise a `RunError` that names the extra if a module is not installed."""
    if find_spec(module) is None:
        raise RunError(f"{type(user).__name__} needs {module!r}: pip install 'recmtl[{extra}]'")
