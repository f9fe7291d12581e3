"""Parse options, and explain in one sentence which one is wrong.

The option parser explains its errors by Python's types. So when it fails, the options are checked one by one, and the
first unknown name or class, or wrong value, is reported.
"""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from recmtl.did_you_mean import unknown_option
from recmtl.errors import UsageError, shown
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.recipe.classes import CLASS_KEYS, class_options, find_class
from recmtl.recipe.option_types import accepted, listed_class, mapped_type, named_class

Option = tuple[str, Any]  # dotted key and value


def parse_options(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse options; a `UsageError` explains the first one that is wrong, and names its recipe if it stands in one."""
    try:
        config: Namespace = parser.parse_args(arguments)
    except Exception as error:  # a user's module that is imported may raise any
        check_arguments(parser, arguments)
        if isinstance(error, ArgumentError):
            raise UsageError(" ".join(str(error).split())) from error
        raise
    return config


def check_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> dict[str, str]:
    """Check options one by one, with those in recipes, and return the names of their classes."""
    named: dict[str, str] = {}
    for key, value in option_values(parser, arguments):
        if key != "config":
            check_options(parser, nested_options(_from_argument(key, value), key), named, "--")
        elif value.startswith("{"):  # the recipe itself
            check_options(parser, nested_options(from_yaml(value)), named)
        else:
            try:
                check_options(parser, nested_options(from_yaml(read_text(Path(value)))), named)
            except UsageError as error:
                raise UsageError(f"{value}: {error}") from error
    return named


def option_values(parser: ArgumentParser, arguments: Sequence[str]) -> Iterator[Option]:
    """Yield options and their values, but for switches, options that print something, and those that append."""
    flag, value = "", ""
    for argument in arguments:
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            if not equals:
                continue
        elif flag:
            value = argument
        action = parser._option_string_actions.get(flag)
        if flag and not flag.endswith("+") and not (action and (action.nargs == 0 or action.default == SUPPRESS)):
            yield action.dest if action else flag[2:], value
        if not (action and action.nargs in ("+", "*")):
            flag = ""


def _from_argument(key: str, value: str) -> Any:
    """Return the value of an option: text, or a mapping if it begins like one."""
    try:
        return from_yaml(value) if value.startswith("{") else value
    except ValueError as error:
        raise UsageError(f"`--{key}` is not YAML: {' '.join(str(error).split())}") from error


def nested_options(value: Any, key: str = "") -> Iterator[Option]:
    """Yield nested options with their dotted keys, as one types them; the name of a class before its options."""
    if not isinstance(value, dict) or not value:
        yield key, value
        return
    for name in sorted(value, key=lambda name: name != "class_path"):
        yield from nested_options(value[name], key if name in CLASS_KEYS else f"{key}.{name}".lstrip("."))


def check_options(parser: ArgumentParser, options: Iterable[Option], named: dict[str, str], mark: str = "") -> None:
    """Check options one by one, and add to `named` the classes that they name; `mark` precedes a key in messages."""
    for key, value in options:
        kind = option_type(parser, key, named, mark) if key else dict
        if named_class(kind) and isinstance(value, str):
            find_class(value, key, kind)
            for below in [other for other in named if other.startswith(f"{key}.")]:
                del named[below]
            named[key] = value
        elif (listed := listed_class(kind)) and isinstance(entries := _listed(value), list):
            for entry in entries:
                check_entry(entry, key, listed, mark)
        elif not accepts(kind, value) and not (named_class(kind) and value == {}):
            raise UsageError(f"`{mark}{key}` must be {accepted(kind)}, got {value!r}")


def _listed(value: Any) -> Any:
    """Return the list that a text is in YAML; any other value as it is."""
    try:
        return from_yaml(value) if isinstance(value, str) and value.startswith("[") else value
    except ValueError:
        return value


def check_entry(entry: Any, key: str, base: type, mark: str) -> None:
    """Check an entry of a list of classes: a name, or a mapping with `class_path` and `init_args`."""
    named = {"class_path": entry} if isinstance(entry, str) else entry
    if not isinstance(named, dict) or not isinstance(named.get("class_path"), str) or not set(named) <= CLASS_KEYS:
        expected = f"{accepted(base)}, or a mapping with `class_path` and `init_args`"
        raise UsageError(f"an entry of `{mark}{key}` must be {expected}, got {shown(entry)}")
    found = find_class(named["class_path"], key, base)
    if not isinstance(found, type):
        raise UsageError(f"{named['class_path']!r} is no class: it must be a subclass of {base.__name__}")
    parser = class_options(found, key, base)
    parser.prog = found.__name__
    check_options(parser, nested_options(named.get("init_args", {}), key), {}, mark)
    missing = [action.dest for action in parser._actions if action.required]
    given = named.get("init_args", {})
    if any(name.rpartition(".")[2] not in given for name in missing):
        raise UsageError(f"`{found.__name__}` needs `{missing[0].rpartition('.')[2]}`: it can be given in Python alone")


def option_type(
    parser: ArgumentParser, key: str, named: dict[str, str], mark: str = "--", owner: str = "", within: str = ""
) -> Any:
    """Return the type of an option of a parser, or of a class in `named`, to which defaults are added."""
    actions = [action for action in parser._actions if action.default != SUPPRESS]
    for action in actions:
        kind, dest = declared_type(action), action.dest
        if not f"{key}.".startswith(f"{dest}."):
            continue
        if key != dest and (items := mapped_type(kind)):
            kind, dest = items, ".".join(key.split(".")[: dest.count(".") + 2])
        if named_class(kind) and isinstance(action.default, Mapping | Namespace):
            named.setdefault(dest, action.default["class_path"])
        if key == dest:
            return kind | list[kind] if action.nargs in ("+", "*") else kind  # type: ignore[valid-type]
        if not named_class(kind) and kind is not Any:
            raise UsageError(f"`{mark}{dest}` must be {accepted(kind)}, got a mapping with `{key[len(dest) + 1 :]}`")
        found = Any if kind is Any else find_class(named.get(dest, "None"), dest, kind)
        if not isinstance(found, type) or found is Any:  # of a function, any option
            return Any
        return option_type(class_options(found, dest, kind), key, named, mark, found.__name__, f"{dest}.")
    names = [action.dest for action in actions]
    if any(name.startswith(f"{key}.") for name in names):
        return dict
    beside = [name for name in names if name.startswith(f"{key.partition('.')[0]}.")] or names
    listed = f": it has {', '.join(name.removeprefix(within) for name in beside) or 'none'}"
    raise unknown_option(owner or f"`{parser.prog}`", f"{mark}{key}", [f"{mark}{name}" for name in names], listed)


def accepts(kind: Any, value: Any) -> bool:
    """Whether the option parser accepts a value for a type."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        parser.parse_object({"value": value})
    except ArgumentError:
        return False
    return True


def declared_type(action: Action) -> Any:
    """Return the declared type of an option."""
    return getattr(action, "_typehint", action.type) or str
