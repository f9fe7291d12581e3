"""The help of a parser's options as plain data, in words that a user knows, and that of a class that one names."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from recmtl.cli.catalogue import command_help
from recmtl.errors import UsageError
from recmtl.recipe.classes import class_options, find_class, known_names
from recmtl.recipe.option_errors import check_arguments, declared_type, option_type
from recmtl.recipe.option_types import alternatives, listed_class, named_class, placeholder
from recmtl.recipe.options import DEFAULT_CLASSES, resolve_arguments

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
# Values whose name says more than their type, unless that is a number.
VALUES = {
    "callbacks": "[CALLBACK,…]",
    "card": "CARD",
    "config": "RECIPE",
    "country": "COUNTRY",
    "date_format": "COLUMN=FORMAT",
    "date_formats": "COLUMN=FORMAT",
    "device": "DEVICE",
    "folder": "DIR",
    "decimal": "MARK",
    "escape": "CHARACTER",
    "funnel": "LABEL …",
    "group": "COLUMN",
    "header": "COLUMN,…",
    "kind": "COLUMN=KIND",
    "kinds": "COLUMN=KIND",
    "metric": "METRIC",
    "monitor": "METRIC",
    "null": "WORD",
    "nulls": "WORD",
    "print_config": "",
    "run": "DIR",
    "separator": "CHARACTER",
    **dict.fromkeys(("train", "valid", "test", "rows"), "FILE"),
    **dict.fromkeys(("label", "labels", "drop", "weight", "domain", "negative_label", "negative_labels"), "COLUMN"),
}
PRINT_CONFIG = "Print the complete recipe that the options make, and exit."
OF_PARSER = ("{", "[ITEM", "\b")  # the beginnings of the placeholders that the option parser sets


def describe_parser(parser: ArgumentParser, headings: Mapping[str, str] = HEADINGS) -> dict[str, Any]:
    """Return the help of a parser as plain data, its options under headings by the key that they begin with.

    `hidden` are flags that are accepted and not listed; `classes` name a class, whose own options follow after a dot.
    """
    listed = [action for action in parser._actions if action.default != SUPPRESS or action.dest == "print_config"]
    hidden = {flag for action in parser._actions if action not in listed for flag in action.option_strings}
    options = [describe_option(action) | {"group": _heading(action, headings)} for action in listed]
    needed = [
        " ".join([option["flags"][0], option["value"]]).rstrip()
        for option, action in zip(options, listed, strict=True)
        if action.required or not action.option_strings
    ]
    order = list(headings.values())
    return {
        "usage": parser.usage or " ".join([parser.prog, *needed, "[OPTIONS]"]),
        "summary": parser.description,
        "options": sorted(options, key=lambda option: order.index(option["group"])),
        "hidden": sorted(hidden),
        "classes": [action.option_strings[0] for action in listed if named_class(declared_type(action))],
    }


def describe_option(action: Action) -> dict[str, Any]:
    """Return the flags of an option, the placeholder of its value, its help and its default."""
    text = PRINT_CONFIG if action.dest == "print_config" else " ".join((action.help or "").split())
    for python, typed in {"``": "`", "`None`": "`null`", "`True`": "`true`"}.items():
        text = text.replace(python, typed)
    value, default = _value(action), _default(action.default)
    if named_class(declared_type(action)):
        default, text = None, f"{text}{_class_help(action)}"
    elif listed_class(declared_type(action)):
        text = f"{text} One of {', '.join(known_names(action.dest))}, or the import path of your own."
    if not action.option_strings:  # it has no flag: its value stands in the place
        return {"flags": [value], "value": "", "help": text, "default": None}
    flags = [flag for flag in action.option_strings if not flag.endswith("+")]  # appending to a list goes unlisted
    return {"flags": flags, "value": value, "help": text, "default": None if "(default:" in text else default}


def _class_help(action: Action) -> str:
    """Return which classes an option can name, and how their options are written."""
    names, flag, word = known_names(action.dest), action.option_strings[0], placeholder(declared_type(action))
    own = f" One of {', '.join(names)}, or the import path of your own: `my_module.My{word.title()}`." if names else ""
    return f"{own} Its own options are `{flag}.OPTION`: `{flag}.help {word}` lists them."


def _heading(action: Action, headings: Mapping[str, str]) -> str:
    key = action.dest if action.option_strings else ""
    return headings.get(key) or headings.get(key.rpartition(".")[0]) or headings[""]


def _value(action: Action) -> str:
    """Return the placeholder for the value of an option."""
    name, metavar = action.dest.rpartition(".")[2], str(action.metavar or "")
    if action.nargs == 0:
        return ""
    if action.choices:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    elif metavar and not metavar.startswith(OF_PARSER):
        value = metavar
    elif action.option_strings:
        kind = declared_type(action)
        is_number = not {int, float}.isdisjoint(alternatives(kind))
        value = placeholder(kind) if is_number else VALUES.get(name, placeholder(kind))
    else:
        value = name.upper()
    optional = value if action.option_strings else f"[{value}]"
    return {"?": optional, "*": f"{optional} …", "+": f"{value} …"}.get(str(action.nargs), value)


def _default(value: Any) -> str | None:
    """Return a default as it is typed; `None` for one that says nothing."""
    if value is None or value is False or value in ([], {}, SUPPRESS):
        return None
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(list(value)) if isinstance(value, tuple) else str(value).lower() if value is True else str(value)


def class_help(build: Callable[[], ArgumentParser], arguments: Sequence[str]) -> str | None:
    """Return the help of a class, if arguments contain `--model.help MMOE` or `--model.encoder.help`, else `None`.

    Without a name it is the class that an earlier argument chooses, or else the default one. The parser is built only
    if the arguments ask for such help.
    """
    for position, argument in enumerate(arguments):
        flag, _, name = argument.partition("=")
        if flag.startswith("--") and flag.endswith(".help"):
            key, parser = flag[2:].removesuffix(".help"), build()
            named = check_arguments(parser, [*DEFAULT_CLASSES, *resolve_arguments(arguments[:position])])
            kind = option_type(parser, key, named)
            if not named_class(kind):
                raise UsageError(f"`--{key}` names no class: there is no help on it")
            following = [other for other in arguments[position + 1 :][:1] if not other.startswith("-")]
            found = find_class(name or "".join(following) or named.get(key, "None"), key, kind)
            described = describe_parser(class_options(found, key, kind), {"": "Options"})
            usage = f"{parser.prog} --{key} {found.__name__} [--{key}.OPTION VALUE …]"
            summary = " ".join((found.__doc__ or found.__name__).split("\n\n")[0].split())
            return command_help({**described, "usage": usage, "summary": summary})
    return None
