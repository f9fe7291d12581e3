"""Parse options, and explain in one sentence which one is wrong.

The option parser explains its errors by Python's types. So when it fails, the options are checked one by one, and the
first unknown name or class, or wrong value, is reported.
"""

from __future__ import annotations

import json
import re
import shlex
from argparse import SUPPRESS, Action, ArgumentError, _AppendAction
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

from recmtl.did_you_mean import unknown_option
from recmtl.errors import UsageError, shown
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.recipe.classes import CLASS_KEYS, class_options, find_class
from recmtl.recipe.option_types import accepted, alternatives, listed_class, mapped_type, named_class

Option = tuple[str, Any]  # dotted key and value
POWER_OF_TEN = re.compile(r"\d+(\.\d+)?[eE]\+?\d{1,2}")


def parse_options(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse options; a `UsageError` explains the first one that is wrong, and names its recipe if it stands in one."""
    try:
        config: Namespace = parser.parse_args([*written_out(parser, arguments)])
    except Exception as error:  # a user's module that is imported may raise any
        check_arguments(parser, arguments)
        if isinstance(error, ArgumentError):
            hint = repeated_hint(parser, arguments) if "unrecognized arguments" in str(error) else ""
            raise UsageError(" ".join(str(error).split()) + hint) from error
        raise
    return config


def repeated_hint(parser: ArgumentParser, arguments: Sequence[str]) -> str:
    """Return how the first option that takes one value at a time, but was given several, is repeated; or nothing."""
    words = [word for a in arguments for word in (a.split("=", 1) if a.startswith("--") else [a])]
    for flag, first, second in zip(words, words[1:], words[2:], strict=False):
        action = parser._option_string_actions.get(flag)
        if isinstance(action, _AppendAction) and not second.startswith("--"):
            return f": {one_at_a_time(flag, first, second)}"
    return ""


def one_at_a_time(flag: str, first: str, second: str) -> str:
    """Return how an option that takes one value at a time is given two."""
    given = " ".join(f"{flag} {shlex.quote(value)}" for value in (first, second))
    return f"`{flag}` takes one value and is repeated for further ones, `{given}`"


def written_out(parser: ArgumentParser, arguments: Iterable[str]) -> Iterator[str]:
    """Write whole numbers such as `1e9` in digits, which the option parser wants of an integer, also in recipes."""
    flag, named = "", dict[str, str]()
    for argument in arguments:
        option, equals, value = argument.partition("=") if argument.startswith("--") else (flag, "", argument)
        if option and (equals or not argument.startswith("--")):
            yield argument.removesuffix(value) + _written_out(parser, option, value, named)
        else:
            yield argument
        flag = "" if equals else option


def _written_out(parser: ArgumentParser, option: str, value: str, named: dict[str, str]) -> str:
    """Return the text of an option, or its recipe, with whole numbers in digits."""
    action = parser._option_string_actions.get(option)
    key = "" if option == "--config" else action.dest if action else option[2:].removesuffix("+")
    try:
        recipe = value if key or value.startswith("{") else read_text(Path(value))
        content = from_yaml(recipe) if not key or value.startswith(("{", "[")) else value
    except (OSError, ValueError):
        return value  # which is explained when it is parsed
    given = [content] if option.endswith("+") and not isinstance(content, list) else content
    found = _in_digits(parser, given, key, named)
    if found == given and str(found) == str(given):  # 1000 and 1000.0 are equal
        return value
    found = found[0] if given is not content else found
    return str(found) if isinstance(found, int) else json.dumps(found)


def _in_digits(parser: ArgumentParser, value: Any, key: str, named: dict[str, str]) -> Any:
    """Return options with whole numbers as integers; `named` has the texts before them, such as names of classes."""
    if isinstance(value, dict):
        order = sorted(value, key=lambda name: name != "class_path")
        found = {
            n: _in_digits(parser, value[n], key if n in CLASS_KEYS else f"{key}.{n}".lstrip("."), named) for n in order
        }
        return {name: found[name] for name in value}
    if isinstance(value, str) and not POWER_OF_TEN.fullmatch(value):
        for below in [other for other in named if other.startswith(f"{key}.")]:
            del named[below]
        named[key] = value
    if not isinstance(value, float | list) and not (isinstance(value, str) and POWER_OF_TEN.fullmatch(value)):
        return value
    try:
        kind = option_type(parser, key, named)
        if (base := listed_class(kind)) and isinstance(value, list):
            return [_entry_in_digits(entry, key, base) for entry in value]
    except Exception:  # explained when it is parsed; a user's module that is imported may raise any
        return value
    return whole(kind, value)


def _entry_in_digits(entry: Any, key: str, base: type) -> Any:
    """Return an entry of a list of classes with whole numbers as integers."""
    if not isinstance(entry, dict) or "init_args" not in entry:
        return entry
    parser = class_options(find_class(entry["class_path"], key, base), key, base)
    return entry | {"init_args": _in_digits(parser, entry["init_args"], key, {})}


def whole(kind: Any, value: Any) -> Any:
    """Return a whole number such as `1e9` as an integer, if a type accepts integers alone; of a list, its members."""
    kinds = alternatives(kind)
    if isinstance(value, list):
        members = [get_args(member)[0] for member in kinds if get_origin(member) in (list, tuple, Sequence)]
        return [whole(members[0], item) for item in value] if len(members) == 1 else value
    if int not in kinds or {float, str} & {*kinds}:
        return value
    if isinstance(value, str) and POWER_OF_TEN.fullmatch(value):
        number = Decimal(value)
        return int(number) if number == number.to_integral_value() else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


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


def given_keys(parser: ArgumentParser, arguments: Sequence[str]) -> Iterator[str]:
    """Yield the dotted keys whose values arguments give, also in recipes: each group of options, and each option."""
    for key, value in option_values(parser, arguments):
        if key != "config":
            yield from _keys(_from_argument(key, value), key)
        else:
            yield from _keys(from_yaml(value if value.startswith("{") else read_text(Path(value))))


def _keys(value: Any, key: str = "") -> Iterator[str]:
    yield key
    for name in value if isinstance(value, dict) else ():
        yield from _keys(value[name], f"{key}.{name}".lstrip("."))


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
        elif not any(accepts(kind, v) for v in (value, whole(kind, _listed(value)))) and (
            value or not named_class(kind)
        ):
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
    given = named.get("init_args") or {}
    check_options(parser, nested_options(given, key) if given else (), {}, mark)
    missing = [action.dest for action in parser._actions if action.required]
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
    if owner:
        beside = [name for name in names if name.startswith(f"{key.partition('.')[0]}.")] or names
        otherwise = f": it has {', '.join(name.removeprefix(within) for name in beside) or 'none'}"
    else:
        otherwise = f": `{parser.prog} --help` lists them"
    spelled = {f"{mark}{a.dest}": a.option_strings[0] if mark and a.option_strings else a.dest for a in actions}
    raise unknown_option(owner or f"`{parser.prog}`", f"{mark}{key}", spelled, otherwise)


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
