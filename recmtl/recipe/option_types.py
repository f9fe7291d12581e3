"""The types of options in a user's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

# What a type accepts, and what stands for its value in a help text.
WORDS = {
    int: ("an integer", "N"),
    float: ("a number", "NUMBER"),
    str: ("text", "TEXT"),
    bool: ("true or false", "{true,false}"),
    Path: ("a path", "PATH"),
    NoneType: ("null", ""),
}


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union; of any other type, itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def named_class(kind: Any) -> type | None:
    """Return the class whose subclasses an option of a type names, as such or as what a factory builds."""
    if any(member in (int, float, str) for member in alternatives(kind)):
        return None
    for member in alternatives(kind):
        found = get_args(member)[-1] if get_origin(member) is Callable else member
        if isinstance(found, type) and found not in (*WORDS, dict, list, tuple, Any) and not is_dataclass(found):
            return found
    return None


def listed_class(kind: Any) -> type | None:
    """Return the class of a list's members; `None` if they are no classes or the type is no list."""
    members = [get_args(member)[0] for member in alternatives(kind) if get_origin(member) in (list, Sequence)]
    return next(filter(None, map(named_class, members)), None)


def mapped_type(kind: Any) -> Any:
    """Return the type of a mapping's values; `None` for another type."""
    found = [get_args(member)[1] for member in alternatives(kind) if get_origin(member) in (dict, Mapping)]
    return found[0] if found else None


def accepted(kind: Any) -> str:
    """Return what an option of a type accepts, such as "an integer" or "a number or null"."""
    return " or ".join(_words(member)[0] for member in alternatives(kind))


def placeholder(kind: Any) -> str:
    """Return what stands for a value of a type in a help text, such as `N` for an integer or `MODEL` for a model."""
    return "|".join(dict.fromkeys(_words(member)[1] for member in alternatives(kind) if member is not NoneType))


def _words(kind: Any) -> tuple[str, str]:
    """Return what a type other than a union accepts, and its placeholder."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind in WORDS:
        return WORDS[kind]
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}", "{" + ",".join(map(str, arguments)) + "}"
    if origin in (list, tuple, Sequence):
        return "a list", f"[{placeholder(arguments[0])},…]"
    if kind is dict or origin in (dict, Mapping):
        return "a mapping", "{NAME: …}"
    if named := named_class(kind):
        return f"the name of a {named.__name__}", re.findall("[A-Z][a-z0-9]*", named.__name__)[-1].upper()
    return getattr(kind, "__name__", str(kind)), "VALUE"
