"""The help of a parser's options as plain data, in words that a user knows."""

from __future__ import annotations

from argparse import SUPPRESS, Action
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser

from recmtl.recipe.classes import known_names
from recmtl.recipe.option_errors import declared_type
from recmtl.recipe.option_types import named_class, placeholder

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
    "card": "CARD",
    "config": "RECIPE",
    "country": "COUNTRY",
    "device": "DEVICE",
    "folder": "DIR",
    "group": "COLUMN",
    "label": "COLUMN",
    "metric": "METRIC",
    "monitor": "METRIC",
    "print_config": "",
    "run": "DIR",
    **dict.fromkeys(("train", "valid", "test", "rows"), "FILE"),
}
PRINT_CONFIG = "Print the complete recipe that the options make, and exit."
OF_PARSER = ("{", "[ITEM", "\b")  # the beginnings of the placeholders that the option parser sets


def describe_parser(parser: ArgumentParser, headings: Mapping[str, str] = HEADINGS) -> dict[str, Any]:
    """Return the help of a parser as plain data.

    Args:
        parser: The parser.
        headings: The heading of its options by the key that they begin with.

    Returns:
        `usage`, `summary` and `options`; as `hidden` the flags that are accepted and not listed; and as `classes` those
        that name a class, whose own options follow after a dot.
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
    """Return what stands for the value of an option."""
    name, metavar = action.dest.rpartition(".")[2], str(action.metavar or "")
    if action.nargs == 0:
        return ""
    if action.choices:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    elif metavar and not metavar.startswith(OF_PARSER):
        value = metavar
    elif action.option_strings:
        value = VALUES.get(name, placeholder(declared_type(action)))
    else:
        value = name.upper()
    optional = value if action.option_strings else f"[{value}]"
    return {"?": optional, "*": f"{optional} …", "+": f"{value} …"}.get(str(action.nargs), value)


def _default(value: Any) -> str | None:
    """Return a default as it is typed; `None` for one that says nothing."""
    if value is None or value is False or value in ([], SUPPRESS):
        return None
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(list(value)) if isinstance(value, tuple) else str(value).lower() if value is True else str(value)
