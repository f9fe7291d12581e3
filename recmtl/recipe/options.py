"""The options of a recipe: its keys, and the parser that reads them from files and the command line.

Constructor signatures and docstrings are the options, the help, the recipe keys and the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from recmtl.balance import Balancer
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.models import RankingModel
from recmtl.recipe.data_options import DataOptions
from recmtl.recipe.option_errors import nested_options, option_type, parse_options
from recmtl.recipe.option_types import alternatives
from recmtl.recipe.presets import find_recipe
from recmtl.recipe.short_options import add_short_options, write_out
from recmtl.schema import FittedSchema
from recmtl.train import Trainer

DEFAULT_CLASSES = ("--model", "MMOE", "--balancer", "Sum")  # if neither recipe nor options name any
MAPPING_KEYS = ("data", "trainer", "trainer.optimization", "trainer.stopping", "trainer.run")
ModelFactory = Callable[[FittedSchema], RankingModel]


def recipe_parser(prog: str, description: str | None = None) -> ArgumentParser:
    """Build the parser of a command that takes a recipe, for `parse_recipe`."""
    parser = ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False, description=description)
    parser.add_argument("--config", action="config", help="A recipe (YAML), or the bare name of a shipped one.")
    add_recipe(parser)
    return parser


def parse_recipe(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse options and recipes; model and balancer are `DEFAULT_CLASSES` if neither names them."""
    config = parse_options(parser, [*DEFAULT_CLASSES, *resolve_arguments(arguments)])
    check_nulls(parser, config)
    return config


def resolve_arguments(arguments: Sequence[str]) -> Iterator[str]:
    """Write out short options, and replace the bare name of a shipped recipe after `--config` by its file."""
    named = False
    for argument in write_out(arguments):
        option, equals, recipe = argument.partition("=")
        if named:
            yield _file(argument)
        else:
            yield f"{option}={_file(recipe)}" if equals and option == "--config" else argument
        named = argument == "--config"


def _file(recipe: str) -> str:
    if recipe.startswith("{"):  # JSON, the recipe itself
        return recipe
    path = find_recipe(recipe)
    check_text(path)
    return str(path)


def check_text(path: Path) -> None:
    """Check that a file is a mapping of text, numbers, lists and mappings, with mappings for the groups of options."""
    try:
        content = from_yaml(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a recipe: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a recipe: expected keys such as `data` and `model`")
    for group in MAPPING_KEYS:
        above, _, key = group.rpartition(".")
        place = content.get(above, {}) if above else content
        if key in place and not isinstance(place[key], dict):
            raise ValueError(f"{path}: `{group}` must be a mapping, got {str(place[key])[:40]!r}")


def check_nulls(parser: ArgumentParser, config: Namespace) -> None:
    """Check that only optional options are null: the option parser accepts null for any."""
    options = dict(nested_options(config.as_dict()))
    for key, value in options.items():
        if value is None and "." in key and not {NoneType, Any} & {*alternatives(option_type(parser, key, options))}:
            raise ValueError(f"`{key}` must not be null")


def add_recipe(parser: ArgumentParser) -> None:
    """Add the keys of a recipe to a parser.

    Model and balancer have no default here: its options would be kept for another class.
    """
    parser.add_class_arguments(DataOptions, "data")
    add_short_options(parser)
    parser.add_argument("--model", type=ModelFactory, help="The ranking model, by default MMOE.")
    parser.add_argument("--balancer", type=Balancer, help="Balances the shared gradient, by default Sum.")
    parser.add_class_arguments(Trainer, "trainer", skip={"model", "balancer"}, instantiate=False)
