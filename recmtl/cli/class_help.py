"""The help of a class that an option names: `--model.help MMOE`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

from recmtl.cli.catalogue import command_help
from recmtl.cli.option_help import describe_parser
from recmtl.recipe.classes import class_options
from recmtl.recipe.option_errors import chosen_class, option_tree
from recmtl.recipe.options import DEFAULT_CLASSES, resolve_recipes


def class_help(parser: ArgumentParser, arguments: Sequence[str]) -> str | None:
    """Return the help that arguments such as `--model.help MMOE` or `--model.encoder.help` ask for; `None` if none do.

    Without a name it is that of the class that the other arguments name, or of the default.

    Raises:
        UsageError: There is no such class.
    """
    for position, argument in enumerate(arguments):
        flag, _, name = argument.partition("=")
        if flag.startswith("--") and flag.endswith(".help"):
            name = name or "".join(arguments[position + 1 : position + 2])
            key = flag[2:].removesuffix(".help")
            tree = option_tree(parser, [*DEFAULT_CLASSES, *resolve_recipes(arguments[:position])])
            kind, found = chosen_class(parser, tree, key, "" if name.startswith("-") else name)
            described = describe_parser(class_options(found, key, kind), {"": "Options"})
            usage = f"{parser.prog} --{key} {found.__name__} [--{key}.OPTION VALUE …]"
            return command_help({**described, "usage": usage, "summary": _summary(found)})
    return None


def _summary(found: Any) -> str:
    """Return the first paragraph of a docstring."""
    return " ".join((found.__doc__ or found.__name__).split("\n\n")[0].split())
