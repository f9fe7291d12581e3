"""What the option parser says of a wrong option, in one sentence that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

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
