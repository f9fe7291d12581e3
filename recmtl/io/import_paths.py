"""Classes and functions named by import paths such as `my_losses.asymmetric`, and what the paths lead to."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Any

from recmtl.did_you_mean import did_you_mean
from recmtl.errors import UsageError

IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


class UntrustedPath(str):
    """An import path that a file names: it is not imported before its module is trusted."""

    __slots__ = ()


def is_import_path(text: object) -> bool:
    """Return whether a value is an import path."""
    return isinstance(text, str) and IMPORT_PATH.fullmatch(text) is not None


def path_of(named: Callable[..., Any] | str) -> str:
    """Return the import path of a class or function; that of a lambda or of a local function cannot be imported."""
    return str(named) if isinstance(named, str) else f"{named.__module__}.{named.__qualname__}"


def is_within(path: str, modules: Collection[str]) -> bool:
    """Return whether an import path leads to one of some modules, or into one."""
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def imported(path: str, what: str = "class") -> Any:
    """Import a class or function; a `UsageError` says why if that fails.

    Args:
        path: Its import path.
        what: What is wanted, for errors.
    """
    module, _, attribute = path.rpartition(".")
    if not module:
        raise UsageError(f"a {what} is named by its import path, such as `my_module.{path}`, got {path!r}")
    if isinstance(path, UntrustedPath):
        raise UsageError(
            f"{path!r} was named by a file and is not trusted: if you trust its code, give `--trust {module}`, "
            f"or `trust=[{module!r}]` of the function that opens the file"
        )
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {error.name!r}, neither in the working directory {str(Path.cwd())!r} nor installed"
            ) from error
        raise UsageError(f"module {module!r} cannot be imported: {error}") from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a user's module raises, also SystemExit
        raise UsageError(f"module {module!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(found, attribute):
        kind = type if what == "class" else object
        names = [name for name, value in vars(found).items() if isinstance(value, kind) and not name.startswith("_")]
        raise UsageError(f"module {module!r} has no {what} {attribute!r}{did_you_mean(attribute, names)}")
    return getattr(found, attribute)
