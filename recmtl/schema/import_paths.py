"""Functions of one's own, named by import paths such as `my_losses.asymmetric`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

TRUSTED = ("recmtl.models", "torch.nn.functional")
IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class UntrustedPath(str):
    """An import path that a file names: it is not imported before its module is trusted."""

    __slots__ = ()


def is_import_path(text: object) -> bool:
    """Return whether a value is an import path."""
    return isinstance(text, str) and IMPORT_PATH.fullmatch(text) is not None


def path_of(function: Callable[..., Any] | str) -> str:
    """Return the import path of a function; that of a lambda or of a local function cannot be imported."""
    return str(function) if isinstance(function, str) else f"{function.__module__}.{function.__qualname__}"


def checked_path(path: str, trust: Collection[str] | None) -> str:
    """Return an import path, as an untrusted one unless its module is within those to trust; ``None`` trusts any."""
    trusted = trust is None or any(path.startswith(f"{module}.") for module in (*TRUSTED, *trust))
    return str(path) if trusted else UntrustedPath(path)
