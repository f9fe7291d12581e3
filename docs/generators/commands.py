"""The reference of the commands, from their parsers."""

import inspect
from argparse import SUPPRESS, Action
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin
from unittest.mock import patch

from jsonargparse import ArgumentParser

from docs.generators.markdown import cell, table
from recmtl.cli import main as cli
from recmtl.recipe.recipe import known_names

PLAIN = {
    "Path": "path",
    "Callable": "a class",
    "Sequence": "list",
    "Mapping": "mapping",
    "PositiveFloat": "number",
}
HIDDEN = ("--help", "--print_config")


class _ParserFound(Exception):  # noqa: N818 - carries the parser out of the command
    """Ends a command when its parser is about to print its help."""


def names() -> list[str]:
    """Return the names of the commands, in the order of the help."""
    return list(cli.ORDER)


def file_of(name: str) -> str:
    """Return the path of the page of a command."""
    return f"reference/commands/{name}.md"


def pages() -> dict[str, str]:
    """Return a page per command, and their list, by path."""
    rows = [(f"[`recmtl {name}`]({name}.md)", cell(cli.SUMMARIES[name])) for name in names()]
    listed = f"""# Commands

{table(["command", "what it does"], rows, right=2)}

`recmtl COMMAND --help` prints the options of a command. Bad input ends in one line on standard error and exit status 2.
"""
    return {"reference/commands/index.md": listed, **{file_of(name): page(name) for name in names()}}


def parser_of(name: str) -> ArgumentParser:
    """Return the parser of a command, as it stands when it prints its help."""
    found: list[ArgumentParser] = []

    def keep(parser: ArgumentParser, *_: object, **__: object) -> None:
        found.append(parser)
        raise _ParserFound

    with patch.object(ArgumentParser, "print_help", keep):
        try:
            cli.run([name, "--help"])
        except _ParserFound:
            return found[0]
    raise RuntimeError(f"`recmtl {name} --help` does not print the help of a parser")


def page(name: str) -> str:
    """Return the page of one command."""
    parser = parser_of(name)
    parts = [f"# recmtl {name}", "", cli.SUMMARIES[name], ""]
    groups: dict[str, list[tuple[str, ...]]] = {}
    for action in parser._actions:
        if action.help is SUPPRESS or any(option in HIDDEN for option in action.option_strings):
            continue
        if any(option.endswith(".help") for option in action.option_strings):
            continue
        groups.setdefault(section(action), []).append(row(parser, action))
    for title, rows in groups.items():
        if title or len(groups) > 1:
            parts += [f"## {title or 'Options'}", ""]
        parts += [table(["option", "value", "default", "meaning"], rows, right=4), ""]
    if any("--model" in action.option_strings for action in parser._actions):
        parts += [
            "The options of a model or balancer follow its name, as in `--model MMOE --model.experts 8`;",
            f"`recmtl {name} --model.help MMOE` lists them. So do the pages of the",
            "[models](../python/models.md) and the [balancers](../../balancers/index.md).",
        ]
    return "\n".join(parts)


def section(action: Action) -> str:
    """Return the part of a recipe that an option belongs to, as a title."""
    key = action.dest.split(".")
    titles = {"data": "Data", "model": "Model and balancer", "balancer": "Model and balancer", "trainer": "Training"}
    if key[0] == "trainer" and len(key) > 1 and key[1] in ("optimization", "stopping", "run"):
        return {"optimization": "Optimization", "stopping": "Early stopping", "run": "Run"}[key[1]]
    is_key = len(key) > 1 or key[0] in ("model", "balancer")
    return titles.get(key[0], "") if is_key and action.option_strings else ""


def row(parser: ArgumentParser, action: Action) -> tuple[str, str, str, str]:
    """Return what the table says of one option."""
    written = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
    default = "" if action.required else shown(action.default)
    return written, cell(value(action)), default, cell(action.help or "")


def shown(default: object) -> str:
    """Return a default as one would type it."""
    if default is None or default == [] or default is SUPPRESS:
        return "–"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, dict):
        default = default.get("class_path", default)
    return f"`{getattr(default, '__name__', default)}`"


def value(action: Action) -> str:
    """Return what an option takes, in a word or two."""
    if action.option_strings and action.nargs == 0:
        return "–"
    if action.choices:
        return ", ".join(f"`{choice}`" for choice in action.choices)
    known = known_names(action.dest)
    if known:
        return ", ".join(f"`{name.rpartition('.')[2]}`" for name in known)
    if action.metavar:
        written: Sequence[str] = [action.metavar] if isinstance(action.metavar, str) else action.metavar
        return " ".join(f"`{choice}`" if "{" not in choice else listed(choice) for choice in written)
    return kind(getattr(action, "_typehint", None) or action.type or str)


def listed(choices: str) -> str:
    """Return `{a,b}` as a list of its choices."""
    return ", ".join(f"`{choice}`" for choice in choices.strip("{}").split(","))


def kind(hint: Any) -> str:
    """Return the name of a type in plain words."""
    plain = {int: "integer", float: "number", str: "text", bool: "`true`, `false`", type(None): "null"}
    if hint in plain:
        return plain[hint]
    if get_origin(hint) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(hint))
    if get_args(hint) and get_origin(hint) is not None and not inspect.isclass(get_origin(hint)):
        return " or ".join(kind(part) for part in get_args(hint))
    if getattr(get_origin(hint), "__name__", "") in ("UnionType", "Union"):
        return " or ".join(kind(part) for part in get_args(hint))
    name = getattr(hint, "__name__", str(hint))
    return PLAIN.get(name, name)
