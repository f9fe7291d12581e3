"""The types of options in a user's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

ACCEPTED = {int: "an integer", float: "a number", str: "text", bool: "true or false", NoneType: "null", Path: "a path"}
PLACEHOLDERS = {int: "N", float: "NUMBER", str: "TEXT", bool: "{true,false}", Path: "PATH"}


def alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union; of any other type, itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def named_class(kind: Any) -> type | None:
    """Return the class whose subclasses an option of a type names, as such or as what a factory builds."""
    if any(member in (int, float, str) for member in alternatives(kind)):
        return None
    for member in alternatives(kind):
        found = get_args(member)[-1] if get_origin(member) is Callable else member
        if isinstance(found, type) and found not in (*ACCEPTED, dict, list, tuple) and not is_dataclass(found):
            return found
    return None


def built_from(kind: Any) -> int:
    """Return the number of arguments that a class gets when it is built; they are no options."""
    factories = [get_args(member)[0] for member in alternatives(kind) if get_origin(member) is Callable]
    return len(factories[0]) if factories else 0


def accepted(kind: Any) -> str:
    """Return what an option of a type accepts, such as "an integer" or "a number or null"."""
    return " or ".join(_accepted(member) for member in alternatives(kind))


def _accepted(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if kind in ACCEPTED:
        return ACCEPTED[kind]
    if origin in (list, tuple, Sequence):
        return "a list"
    if kind is dict or origin in (dict, Mapping):
        return "a mapping"
    return f"the name of a {named.__name__}" if (named := named_class(kind)) else getattr(kind, "__name__", str(kind))


def placeholder(kind: Any) -> str:
    """Return what stands for a value of a type in a help text, such as `N` for an integer or `MODEL` for a model."""
    return "|".join(dict.fromkeys(_placeholder(member) for member in alternatives(kind) if member is not NoneType))


def _placeholder(kind: Any) -> str:
    origin = get_origin(kind)
    if origin is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if kind in PLACEHOLDERS:
        return PLACEHOLDERS[kind]
    if origin in (list, tuple, Sequence):
        return f"[{_placeholder(get_args(kind)[0])},…]"
    if kind is dict or origin in (dict, Mapping):
        return "{NAME: …}"
    named = named_class(kind)
    return re.findall("[A-Z][a-z0-9]*", named.__name__)[-1].upper() if named else "VALUE"
