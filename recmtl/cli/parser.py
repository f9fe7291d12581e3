"""The parser of a command, from its signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from recmtl.errors import UsageError

# Parameters that are not `--name VALUE`: how they are written, and their settings.
SPECIAL: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "run": ("run", {"type": Path, "help": "The run folder."}),
    "runs": ("runs", {"type": Path, "metavar": "RUN", "nargs": "+", "help": "The run folders."}),
    "data": ("data", {"metavar": "DATA", "help": "Raw files or a prepared dataset."}),
    "action": ("action", {"choices": ["list", "clear"], "help": "Whether to list or remove them."}),
    "names": ("names", {"metavar": "NAME", "nargs": "*", "help": "Only datasets whose names begin like this."}),
    "label": ("--label", {"action": "append", "help": "A binary label, if there is no card; may be repeated."}),
    "slices": (
        "--slice",
        {
            "dest": "slices",
            "action": "append",
            "metavar": "FEATURE",
            "help": "A feature to slice the AUC by; may be repeated.",
        },
    ),
    "trust": (
        "--trust",
        {
            "action": "append",
            "metavar": "MODULE",
            "default": [],
            "help": "A further module whose classes the run's recipe may name; may be repeated.",
        },
    ),
    "older_than": (
        "--older-than",
        {"type": float, "metavar": "DAYS", "help": "Only datasets that are at least this old."},
    ),
    "json": ("--json", {"action": "store_true", "help": "Print JSON instead of a table."}),
}


def parser_of(name: str) -> ArgumentParser:
    """Build the parser of a command."""
    module = import_module(f"recmtl.cli.{name}")
    build = getattr(module, f"{name}_parser", None)
    parser: ArgumentParser = build() if build else command_parser(name, getattr(module, f"{name}_command"))
    return parser


def command_parser(name: str, command: Callable[..., None]) -> ArgumentParser:
    """Build the parser of a command from its signature and docstring."""
    summary = (command.__doc__ or "").splitlines()[0]
    parser = ArgumentParser(prog=f"recmtl {name}", exit_on_error=False, allow_abbrev=False, description=summary)
    special = [parameter for parameter in SPECIAL if parameter in command.__annotations__]
    given = signature(command).parameters
    for parameter in special:
        written, settings = SPECIAL[parameter]
        optional: dict[str, Any] = {"nargs": "?"} if written == parameter and given[parameter].default is None else {}
        parser.add_argument(written, **settings, **optional)
    parser.add_function_arguments(command, skip=set(special))
    return parser


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a `ValueError` about an option into a `UsageError`."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error
