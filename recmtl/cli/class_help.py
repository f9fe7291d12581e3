"""The help of a class that an option names: `--model.help MMOE`."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from recmtl.cli.catalogue import command_help
from recmtl.cli.option_help import describe_parser
from recmtl.errors import UsageError
from recmtl.recipe.classes import class_options, find_class
from recmtl.recipe.option_errors import check_arguments, option_type
from recmtl.recipe.option_types import named_class
from recmtl.recipe.options import DEFAULT_CLASSES, resolve_recipes


def class_help(parser: ArgumentParser, arguments: Sequence[str]) -> str | None:
    """Return the help that arguments such as `--model.help MMOE` or `--model.encoder.help` ask for; `None` if none do.

    Without a name it is that of the class that the arguments before it name, or of the default.

    Raises:
        UsageError: There is no such class.
    """
    for position, argument in enumerate(arguments):
        flag, _, name = argument.partition("=")
        if flag.startswith("--") and flag.endswith(".help"):
            key = flag[2:].removesuffix(".help")
            named = check_arguments(parser, [*DEFAULT_CLASSES, *resolve_recipes(arguments[:position])])
            kind = option_type(parser, key, named)
            if not named_class(kind):
                raise UsageError(f"`--{key}` names no class: there is no help on it")
            following = [other for other in arguments[position + 1 :][:1] if not other.startswith("-")]
            found = find_class(name or "".join(following) or named.get(key, "None"), key, kind)
            described = describe_parser(class_options(found, key, kind), {"": "Options"})
            usage = f"{parser.prog} --{key} {found.__name__} [--{key}.OPTION VALUE …]"
            summary = " ".join((found.__doc__ or found.__name__).split("\n\n")[0].split())
            return command_help({**described, "usage": usage, "summary": summary})
    return None
