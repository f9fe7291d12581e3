"""What loggers share: the numbers of a record, and packages that few users need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from recmtl.errors import RunError

POSITION = ("step", "epoch")  # where a record stands, beside what was measured


def flatten_numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield the finite numbers of a record, each with the path to it: `diagnosis/cosine/ctr·cvr`."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from flatten_numbers(value, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and math.isfinite(value) and (prefix or name not in POSITION):
            yield prefix + name, value


def require(module: str, user: object, extra: str) -> None:
    """Raise a `RunError` that names the extra if a module is not installed."""
    if find_spec(module) is None:
        raise RunError(f"{type(user).__name__} needs {module!r}: pip install 'recmtl[{extra}]'")
