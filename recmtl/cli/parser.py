"""The parser of a command, from its signature, and the description of a parser's options."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from recmtl.errors import UsageError
from recmtl.recipe.option_types import named_class, placeholder
from recmtl.recipe.recipe import known_names

# Parameters that are not `--name VALUE`: how they are written, and their settings.
SPECIAL: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "run": ("run", {"type": Path, "help": "The run folder."}),
    "runs": ("runs", {"type": Path, "metavar": "RUN", "nargs": "+", "help": "The run folders."}),
    "data": ("data", {"metavar": "DATA", "help": "Raw files, as `prepare` takes them, or a prepared dataset."}),
    "action": ("action", {"choices": ["list", "clear"], "help": "What to do."}),
    "names": ("names", {"metavar": "NAME", "nargs": "*", "help": "Only those whose names begin so."}),
    "label": ("--label", {"action": "append", "help": "A binary label, if there is no card; may be repeated."}),
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
# The headings of a help text by the keys that options begin with; the order is that of the help text.
HEADINGS = {
    "": "Options",
    "data": "Data",
    "model": "Model",
    "balancer": "Balancer",
    "trainer": "Training",
    "trainer.optimization": "Optimization",
    "trainer.stopping": "Early stopping",
    "trainer.run": "Run",
}
# Values whose name says more than their type.
VALUES = {
    "--card": "CARD",
    "--config": "RECIPE",
    "--country": "COUNTRY",
    "--device": "DEVICE",
    "--folder": "DIR",
    "--group": "COLUMN",
    "--label": "COLUMN",
    "--metric": "METRIC",
    "--monitor": "METRIC",
    "--print_config": "",
    "--run": "DIR",
    **dict.fromkeys(("--train", "--valid", "--test", "--rows"), "FILE"),
}
WORDS = {"`None`": "`null`", "`True`": "`true`"}  # Python's words, and those of the command line and YAML
HELP = {"print_config": "Print the complete recipe that the options make, and exit."}


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


def describe_parser(parser: ArgumentParser) -> dict[str, Any]:
    """Return the help of a parser as plain data.

    Returns:
        `usage`, `summary` and `options`; as `hidden` the flags that are accepted and not listed; and as `classes` those
        that name a class, whose own options follow after a dot.
    """
    listed = [action for action in parser._actions if action.default != SUPPRESS or action.dest == "print_config"]
    options = [_describe(action) for action in listed]
    needed = [
        f"{option['flags'][0]} {option['value']}" if action.option_strings else _positional(action)
        for action, option in zip(listed, options, strict=True)
        if not action.option_strings or action.required
    ]
    order = list(HEADINGS.values())
    return {
        "usage": parser.usage or " ".join([parser.prog, *needed, "[OPTIONS]"]),
        "summary": parser.description,
        "options": sorted(options, key=lambda option: order.index(option["group"])),
        "hidden": sorted(
            {flag for action in parser._actions if action not in listed for flag in action.option_strings}
        ),
        "classes": [action.option_strings[0] for action in listed if named_class(_type(action))],
    }


def _type(action: Action) -> Any:
    """Return the type that an option was declared with."""
    return getattr(action, "_typehint", action.type) or str


def _positional(action: Action) -> str:
    value = _value(action)
    return {"?": f"[{value}]", "+": f"{value} …", "*": f"[{value} …]"}.get(str(action.nargs), value)


def _value(action: Action) -> str:
    flag = f"--{action.dest.rpartition('.')[2]}"
    if action.nargs == 0:
        return ""
    if action.option_strings and flag in VALUES:
        return VALUES[flag]
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return str(action.metavar or (placeholder(_type(action)) if action.option_strings else action.dest.upper()))


def _describe(action: Action) -> dict[str, Any]:
    """Return the flags, value, help, default and heading of an option."""
    flags = [flag for flag in action.option_strings if not flag.endswith("+")] or [_positional(action)]
    key = action.dest if action.dest in HEADINGS and action.option_strings else action.dest.rpartition(".")[0]
    many = " …" if action.option_strings and action.nargs in ("+", "*") else ""
    text = HELP.get(action.dest) or (action.help or "").replace("``", "`")
    for python, yaml in WORDS.items():
        text = text.replace(python, yaml)
    named = named_class(_type(action))
    if named:
        names, flag, word = known_names(action.dest), action.option_strings[0], placeholder(_type(action))
        text += (
            f" One of {', '.join(names)}, or the import path of your own: `my_module.My{word.title()}`."
            if names
            else ""
        )
        text += f" Its own options are `{flag}.OPTION`: `{flag}.help {word}` lists them."
    unset = action.default is None or action.default is False or action.default in ([], SUPPRESS)
    default = None if unset or named else _default(action.default)
    return {
        "flags": flags,
        "value": f"{_value(action)}{many}" if action.option_strings else "",
        "help": " ".join(text.split()),
        "default": default,
        "group": HEADINGS.get(key, HEADINGS[""]),
    }


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
