"""The options of a command, from its signature."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from recmtl.errors import UsageError

# Parameters that are not `--name VALUE`: what stands on the command line, and its settings.
OWN: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "run": ("run", {"type": Path, "help": "The run folder."}),
    "runs": ("runs", {"type": Path, "metavar": "RUN", "nargs": "+", "help": "The run folders."}),
    "data": (
        "data",
        {"metavar": "FILE|PREPARED", "help": "Raw files, as `prepare` takes them, or a prepared dataset."},
    ),
    "action": ("action", {"choices": ["list", "clear"], "help": "What to do."}),
    "names": ("names", {"metavar": "NAME", "nargs": "*", "help": "Only those whose names begin so."}),
    "label": ("--label", {"action": "append", "help": "A binary label, where there is no card; may be repeated."}),
    "slices": (
        "--slice",
        {
            "dest": "slices",
            "action": "append",
            "metavar": "FEATURE",
            "help": "A feature by whose values the AUC is shown; may be repeated.",
        },
    ),
    "trust": (
        "--trust",
        {
            "action": "append",
            "metavar": "MODULE",
            "default": [],
            "help": "A further module whose classes the recipe of the run may name; may be repeated.",
        },
    ),
    "older_than": ("--older-than", {"type": float, "metavar": "DAYS", "help": "Only those that are older."}),
    "json": ("--json", {"action": "store_true", "help": "Print JSON instead of a table."}),
}


def command_parser(name: str, command: Callable[..., None]) -> ArgumentParser:
    """Build the parser of a command: its options are its parameters, described in its docstring."""
    summary = (command.__doc__ or "").splitlines()[0]
    parser = ArgumentParser(prog=f"recmtl {name}", exit_on_error=False, allow_abbrev=False, description=summary)
    own = [parameter for parameter in OWN if parameter in command.__annotations__]
    given = signature(command).parameters
    for parameter in own:
        written, settings = OWN[parameter]
        optional: dict[str, Any] = {"nargs": "?"} if written == parameter and given[parameter].default is None else {}
        parser.add_argument(written, **settings, **optional)
    parser.add_function_arguments(command, skip=set(own))
    return parser


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what a constructor says of its options into an error of usage."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


KEY = re.compile(r'Parser key "([\w.]+)"')
EXPECTED = re.compile(
    r"Expected an? (?:<class '(?P<name>[\w.]+)'>|(?P<type>.+?))\. Got value: (?P<value>[^.]*(?:\.\d+)?)"
)
UNION = re.compile(r"Subtypes: \[(?P<types>.*?)\] Errors:.*Given value: (?P<value>.*?)(?:\. Got value: |$)")
UNKNOWN_OPTION = re.compile(
    r"(?:Option '(?P<option>[\w.]+)' is not accepted|unrecognized arguments: --(?P<flag>[\w.]+)=)"
)
UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: (?P<name>\S*[^\s.])")
NAMES = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false", "NoneType": "null"}
NAMES |= {"Sequence": "a list", "Mapping": "a mapping"}


def explain(message: str, known: Callable[[str], Sequence[str]]) -> str:
    """Say what is wrong with an option.

    Args:
        message: What the parser says.
        known: Gives the classes that a key can name; empty where they are not listed.
    """
    text = " ".join(message.split())
    key = ".".join(KEY.findall(text))
    if not key:
        return text
    if found := UNKNOWN_CLASS.search(text):
        choices = known(key)
        listed = f"one of {', '.join(choices)}, or " if choices else ""
        return f"there is no {key} {found['name']!r}: give {listed}the import path of your own"
    if found := UNKNOWN_OPTION.search(text):
        return f"`--{key}` has no option {(found['option'] or found['flag'])!r}: `--{key}.help` lists them"
    if found := UNION.search(text):
        kinds = [_kind(kind) for kind in re.findall(r"<class '([\w.]+)'>|([\w.]+)(?:\[[^<]*\])", found["types"])]
        return f"`--{key}` must be {' or '.join(kinds)}, got {found['value']!r}"
    if found := EXPECTED.search(text):
        return f"`--{key}` must be {_kind((found['name'] or '', found['type'] or ''))}, got {found['value']!r}"
    return text


def _kind(names: tuple[str, str]) -> str:
    """Name a type, given as a class's name or as it is written."""
    name, written = names
    if written.startswith("typing.Literal"):
        return "one of " + written.removeprefix("typing.Literal").strip("[]").replace("'", "")
    short = (name or written).rpartition(".")[2]
    return NAMES.get(short, short)
