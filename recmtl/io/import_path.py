"""What an import path leads to."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from recmtl.did_you_mean import did_you_mean
from recmtl.errors import UsageError


def imported(module: str, attribute: str, what: str = "class") -> Any:
    """Import a class or function; a `UsageError` says why if that fails.

    Args:
        module: The module.
        attribute: The name in it.
        what: What is wanted, for errors.
    """
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {error.name!r}, neither in the working directory {str(Path.cwd())!r} nor installed"
            ) from error
        raise UsageError(f"module {module!r} cannot be imported: {error}") from error
    except Exception as error:  # whatever a user's module raises
        raise UsageError(f"module {module!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(found, attribute):
        kind = type if what == "class" else object
        names = [name for name, value in vars(found).items() if isinstance(value, kind) and not name.startswith("_")]
        raise UsageError(f"module {module!r} has no {what} {attribute!r}{did_you_mean(attribute, names)}")
    return getattr(found, attribute)
