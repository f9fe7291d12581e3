"""What is wrong with an option or a key of a recipe, in one sentence.

The option parser explains itself in Python's types. When it refuses, the options are looked at one by one: the first
name, class or value that does not fit is what is reported.
"""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

from recmtl.errors import UsageError, did_you_mean
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.recipe.classes import class_options, find_class
from recmtl.recipe.option_types import accepted, alternatives, named_class

Tree = dict[str, Any]  # options as a recipe nests them, a class as a mapping with `class_path`
ENTRY = ("class_path", "init_args", "dict_kwargs")


def parse_options(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse options.

    Raises:
        UsageError: One of them cannot be used.
    """
    try:
        return parser.parse_args(arguments)
    except Exception as error:  # a user's module that is imported may raise any
        check_options(parser, arguments)
        if isinstance(error, ArgumentError):  # each option by itself can be used
            raise UsageError(" ".join(str(error).split())) from error
        raise


def check_options(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Check options one by one, first those of each recipe among them.

    Raises:
        UsageError: One of them cannot be used.
    """
    for option, value in pairs(parser, arguments):
        if option == "config" and not value.startswith("{"):
            try:
                check_tree(parser, read_options(value), "")
            except UsageError as error:
                raise UsageError(f"{value}: {error}") from error
    check_tree(parser, option_tree(parser, arguments), "--")


def option_tree(parser: ArgumentParser, arguments: Sequence[str]) -> Tree:
    """Return options as a recipe nests them, those of the recipes among them."""
    tree: Tree = {}
    for option, value in pairs(parser, arguments):
        if option == "config":
            tree = merged(tree, read_options(value) or {})
        else:
            insert(tree, option.split("."), value)
    return tree


def read_options(recipe: str) -> Any:
    """Read a recipe, given as a file or as JSON."""
    return from_yaml(recipe if recipe.startswith("{") else read_text(Path(recipe)))


def pairs(parser: ArgumentParser, arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Walk the options among arguments, each with its value; not those that are a switch or print something."""
    waiting = list(arguments)
    while waiting:
        flag, equals, value = waiting.pop(0).partition("=")
        if not flag.startswith("--"):
            continue
        action = parser._option_string_actions.get(flag)
        many = action is not None and action.nargs in ("+", "*")
        if action is not None and (action.nargs == 0 or action.default == SUPPRESS):
            continue
        values = [value] if equals else []
        while waiting and not waiting[0].startswith("--") and (many or not values):
            values.append(waiting.pop(0))
        if values:
            yield action.dest if action else flag[2:], values if many else values[0]


def insert(tree: Tree, path: Sequence[str], value: Any) -> None:
    """Set an option in a tree; a name that it lies below is that of a class.

    Raises:
        UsageError: Its value looks like a mapping and is not YAML.
    """
    *above, last = path
    for key in above:
        if not isinstance(tree.get(key), dict):
            tree[key] = {"class_path": tree[key]} if key in tree else {}
        tree = tree[key]
    if isinstance(value, str) and value.startswith("{"):
        try:
            value = from_yaml(value)
        except ValueError as error:
            raise UsageError(f"`--{'.'.join(path)}` is not YAML: {' '.join(str(error).split())}") from error
    tree[last] = value


def merged(tree: Tree, other: Tree) -> Tree:
    """Return a tree with the keys of another one; where that names another class, its options take the place."""
    result = dict(tree)
    for key, value in other.items():
        before = result.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            same = value.get("class_path") in (None, before.get("class_path"))
            result[key] = merged(before, value) if same else value
        else:
            result[key] = value
    return result


def check_tree(parser: ArgumentParser, tree: Tree, mark: str, within: str = "", owner: str = "") -> None:
    """Check that a parser has the keys of a tree, that their values are of its types, and the classes that they name.

    Args:
        parser: The parser of a recipe or of a class.
        tree: The options.
        mark: What stands before a key in a message: two dashes for an option.
        within: The key that the tree lies below, with a dot at its end.
        owner: What has these options, for the message.

    Raises:
        UsageError: One of them does not fit.
    """
    actions = {action.dest: action for action in parser._actions if action.default != SUPPRESS}
    below = [dest for dest in actions if dest.startswith(within)]
    for key, value in tree.items():
        dest = f"{within}{key}"
        if dest in actions:
            for item in value if actions[dest].nargs in ("+", "*") else [value]:
                check_value(declared_type(actions[dest]), item, dest, mark, actions[dest].default)
        elif any(name.startswith(f"{dest}.") for name in below):
            if not isinstance(value, dict):
                raise UsageError(f"`{mark}{dest}` must be a mapping, got {value!r}")
            check_tree(parser, value, mark, f"{dest}.", owner)
        else:
            names = [name.removeprefix(within) for name in below]
            near = did_you_mean(key, names, f"`{mark}{within}", "`") or f": it has {', '.join(names) or 'none'}"
            raise UsageError(f"{owner or f'`{parser.prog}`'} has no option `{mark}{dest}`{near}")


def check_value(kind: Any, value: Any, key: str, mark: str, default: Any = None) -> None:
    """Check that a value is of a type; where that is a class, that there is one of its name, with its options.

    Args:
        kind: The type.
        value: The value, a string if it is from the command line.
        key: The key.
        mark: What stands before a key in a message.
        default: The default, whose class has the options if none is named.

    Raises:
        UsageError: It is not.
    """
    if named_class(kind) is not None:
        if value is not None or NoneType not in alternatives(kind):
            check_class(kind, value, key, mark, default)
    elif isinstance(value, dict) and (items := mapped_class(kind)) is not None:
        for name, item in value.items():
            check_value(items, item, f"{key}.{name}", mark)
    elif not accepts(kind, value):
        raise UsageError(f"`{mark}{key}` must be {accepted(kind)}, got {value!r}")


def check_class(kind: Any, value: Any, key: str, mark: str, default: Any) -> None:
    """Check the name and the options of a class.

    Raises:
        UsageError: There is no such class, or it has no such option.
    """
    named, options = class_entry(value, default)
    if not isinstance(named, str):
        raise UsageError(f"`{mark}{key}` must be {accepted(kind)}, got {value!r}")
    found = find_class(named, key, kind)
    if isinstance(found, type):
        check_tree(class_options(found, key, kind), options, mark, f"{key}.", found.__name__)


def class_entry(value: Any, default: Any) -> tuple[Any, Tree]:
    """Return the name of a class, by default that of the default, and its options."""
    entry = value if isinstance(value, dict) else {"class_path": value}
    named = entry.get("class_path") or (default["class_path"] if isinstance(default, Mapping | Namespace) else None)
    options = {key: item for key, item in entry.items() if key not in ENTRY}
    return named, {**(entry.get("init_args") or {}), **options}


def chosen_class(parser: ArgumentParser, tree: Tree, key: str, name: str = "", within: str = "") -> tuple[Any, Any]:
    """Return the type of an option and the class that it names.

    Args:
        parser: The parser of a recipe or of a class.
        tree: The options.
        key: The option.
        name: The name of the class; by default that among the options, or the default.
        within: The key that the tree lies below, with a dot at its end.

    Raises:
        UsageError: The option names no class, or there is none of its name.
    """
    for action in parser._actions:
        kind, dest = declared_type(action), action.dest
        if action.default != SUPPRESS and named_class(kind) and f"{key}.".startswith(f"{dest}."):
            named, options = class_entry(tree.get(dest.removeprefix(within)), action.default)
            found = find_class((key == dest and name) or str(named), dest, kind)
            if key == dest:
                return kind, found
            return chosen_class(class_options(found, dest, kind), options, key, name, f"{dest}.")
    raise UsageError(f"`--{key}` names no class: there is no help on it")


def mapped_class(kind: Any) -> Any:
    """Return the type of the values of a mapping whose values name classes."""
    for member in alternatives(kind):
        if get_origin(member) in (dict, Mapping) and named_class(get_args(member)[1]):
            return get_args(member)[1]
    return None


def accepts(kind: Any, value: Any) -> bool:
    """Whether a value is of a type, as the option parser sees it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=kind)
    try:
        if isinstance(value, str):
            parser.parse_args([f"--value={value}"])
        else:
            parser.parse_object({"value": value})
    except ArgumentError:
        return False
    return True


def declared_type(action: Action) -> Any:
    """Return the type that an option was declared with."""
    return getattr(action, "_typehint", action.type) or str
