"""The parser of a command, from its signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from recmtl.errors import UntrustedError, UsageError
from recmtl.recipe.row_options import row_options
from recmtl.recipe.short_options import text_options

# Parameters of commands that several options make up, and what takes these.
GROUPS: Mapping[str, Callable[..., Any]] = {"reading": row_options, "text": text_options}

# Parameters that are not `--name VALUE`: how they are written, and their settings.
SPECIAL: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "run": ("run", {"type": Path}),
    "runs": ("runs", {"type": Path, "metavar": "RUN", "nargs": "+"}),
    "model": ("model", {"type": Path}),
    "data": ("data", {"metavar": "DATA"}),
    "dataset": ("dataset", {"metavar": "DATASET"}),
    "model_name": ("model_name", {"metavar": "MODEL"}),
    "raw_data": ("--data", {"dest": "raw_data", "metavar": "FOLDER"}),
    "action": ("action", {"choices": ["list", "clear"]}),
    "names": ("names", {"metavar": "NAME", "nargs": "*"}),
    "label": ("--label", {"action": "append"}),
    "funnel": ("--funnel", {"nargs": "+", "metavar": "LABEL"}),
    "task": ("--task", {"action": "append"}),
    "drop": ("--drop", {"action": "append"}),
    "kind": ("--kind", {"action": "append", "metavar": "COLUMN=KIND"}),
    "separator": ("--separator", {"metavar": "CHARACTER"}),
    "decimal": ("--decimal", {"metavar": "MARK"}),
    "escape": ("--escape", {"metavar": "CHARACTER"}),
    "header": ("--header", {"action": "append", "metavar": "COLUMN,…"}),
    "date_format": ("--date_format", {"action": "append", "metavar": "COLUMN=FORMAT"}),
    "null": ("--null", {"action": "append", "metavar": "WORD"}),
    "negative_label": ("--negative_label", {"action": "append"}),
    "thinned": ("--thinned", {"action": "append", "metavar": "SPLIT"}),
    "slices": ("--slice", {"dest": "slices", "action": "append", "metavar": "FEATURE"}),
    "metrics": ("--metric", {"dest": "metrics", "action": "append", "metavar": "[TASK=]FUNCTION"}),
    "trust": ("--trust", {"action": "append", "metavar": "MODULE", "default": []}),
    "older_than": ("--older-than", {"type": float, "metavar": "DAYS"}),
    "json": ("--json", {"action": "store_true"}),
    "brief": ("--brief", {"action": "store_true"}),
    "log_requests": ("--log_requests", {"action": "store_true"}),
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
    add_arguments(parser, command)
    for name, group in GROUPS.items():
        if name in command.__annotations__:
            add_arguments(parser, group)
    return parser


def add_arguments(parser: ArgumentParser, command: Callable[..., Any]) -> None:
    """Add the parameters of a function to a parser, but for those of `GROUPS`."""
    special = [parameter for parameter in SPECIAL if parameter in command.__annotations__]
    given = signature(command).parameters
    documented = ArgumentParser(exit_on_error=False)
    documented.add_function_arguments(command, skip=set(GROUPS))
    meanings = {action.dest: action.help for action in documented._actions}
    for parameter in special:
        written, settings = SPECIAL[parameter]
        optional: dict[str, Any] = {"nargs": "?"} if written == parameter and given[parameter].default is None else {}
        parser.add_argument(written, help=meanings[parameter], **settings, **optional)
    parser.add_function_arguments(command, skip={*GROUPS, *special})


def call_command(command: Callable[..., None], options: Mapping[str, Any]) -> None:
    """Run a command with its parsed options; those of a group become one argument."""
    given = dict(options)
    for name, group in GROUPS.items():
        if name in command.__annotations__:
            given[name] = group(**{option: given.pop(option) for option in signature(group).parameters})
    command(**given)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn a `ValueError` about an option into a `UsageError`."""
    try:
        yield
    except ValueError as error:
        raise error if isinstance(error, UntrustedError) else UsageError(str(error)) from error
