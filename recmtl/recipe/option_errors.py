"""Parse options, and explain in one sentence which one is wrong.

The option parser explains its errors by Python's types. So when it fails, the options are checked one by one, and the
first unknown name or class, or wrong value, is reported.
"""

from __future__ import annotations

from argparse import SUPPRESS, Action, ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

from recmtl.errors import UsageError, did_you_mean
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.recipe.classes import CLASS_KEYS, class_options, find_class
from recmtl.recipe.option_types import accepted, alternatives, named_class

Tree = dict[str, Any]  # options as a recipe nests them, a class as a mapping with `class_path`


def parse_options(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse options.

    Raises:
        UsageError: One of them is unknown, or its value is wrong.
    """
    with _explained(lambda: check_options(parser, arguments)):
        config: Namespace = parser.parse_args(arguments)
        return config


def parse_mapping(parser: ArgumentParser, recipe: Tree) -> Namespace:
    """Parse a recipe that is plain data.

    Raises:
        UsageError: One of its keys is unknown, or its value is wrong.
    """
    with _explained(lambda: check_tree(parser, recipe, "")):
        config: Namespace = parser.parse_object(recipe)
        return config


@contextmanager
def _explained(check: Callable[[], None]) -> Iterator[None]:
    """Run a check that explains what is wrong when an option parser fails; the parser's message if it finds nothing."""
    try:
        yield
    except Exception as error:  # a user's module that is imported may raise any
        check()
        if isinstance(error, ArgumentError):
            raise UsageError(" ".join(str(error).split())) from error
        raise


def check_options(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Check options one by one, those in recipes first.

    Raises:
        UsageError: One of them is unknown, or its value is wrong.
    """
    for option, value in option_values(parser, arguments):
        if option == "config" and not value.startswith("{"):
            try:
                check_tree(parser, read_options(value), "")
            except UsageError as error:
                raise UsageError(f"{value}: {error}") from error
    check_tree(parser, option_tree(parser, arguments), "--")


def option_tree(parser: ArgumentParser, arguments: Sequence[str]) -> Tree:
    """Return options, nested as in a recipe, with those of the recipes that they name."""
    tree: Tree = {}
    for option, value in option_values(parser, arguments):
        if option == "config":
            tree = merged(tree, read_options(value) or {})
        else:
            insert(tree, option.split("."), value)
    return tree


def read_options(recipe: str) -> Any:
    """Read a recipe from a file, or from JSON itself."""
    return from_yaml(recipe if recipe.startswith("{") else read_text(Path(recipe)))


def option_values(parser: ArgumentParser, arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Yield options and their values, but for switches and options that print something."""
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
    """Set an option in a tree. A value that it is nested below is the name of its class.

    Raises:
        UsageError: Its value begins like a mapping and is not YAML.
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
    """Merge two trees. The second one wins; if it names another class, the options of the first one's are dropped."""
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
    """Check the names, values and classes of nested options.

    Args:
        parser: The parser of a recipe or of a class.
        tree: The options.
        mark: The prefix of a key in messages: `--` for an option.
        within: The prefix of all keys of the tree, with its dot.
        owner: The name of the class that has the options.

    Raises:
        UsageError: One of them is unknown, or its value is wrong.
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
    """Check that a value is of a type, and if it names a class, that class and its options.

    Args:
        kind: The type.
        value: The value; from the command line, a string.
        key: The key.
        mark: The prefix of the key in messages.
        default: The default, whose class has the options if the value names none.

    Raises:
        UsageError: The value is wrong.
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
    """Return the name of a class, or that of the default, and its options."""
    entry = value if isinstance(value, dict) else {"class_path": value}
    named = entry.get("class_path") or (default["class_path"] if isinstance(default, Mapping | Namespace) else None)
    options = {key: item for key, item in entry.items() if key not in CLASS_KEYS}
    return named, {**(entry.get("init_args") or {}), **options}


def chosen_class(parser: ArgumentParser, tree: Tree, key: str, name: str = "", within: str = "") -> tuple[Any, Any]:
    """Return the type of an option and the class that it names.

    Args:
        parser: The parser of a recipe or of a class.
        tree: The options.
        key: The option.
        name: The name of the class; by default that in the options, or the default.
        within: The prefix of all keys of the tree, with its dot.

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
    """Return the type of the values of a mapping if they name classes."""
    for member in alternatives(kind):
        if get_origin(member) in (dict, Mapping) and named_class(get_args(member)[1]):
            return get_args(member)[1]
    return None


def accepts(kind: Any, value: Any) -> bool:
    """Whether the option parser accepts a value for a type."""
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
    """Return the declared type of an option."""
    return getattr(action, "_typehint", action.type) or str
