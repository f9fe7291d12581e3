"""The options of a recipe: its keys, and the parser that reads them from files and the command line.

Constructor signatures and docstrings are the options, the help, the recipe keys and the checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from recmtl.balance import Balancer
from recmtl.data.sources.bad_rows import BadRows
from recmtl.models import RankingModel
from recmtl.recipe.option_errors import parse_options
from recmtl.recipe.presets import find_recipe
from recmtl.recipe.validation import check_nulls, check_text
from recmtl.schema import FittedSchema
from recmtl.train import EarlyStopping, Optimization, RunConfig, Trainer

DEFAULT_CLASSES = ("--model", "MMOE", "--balancer", "Sum")  # if neither recipe nor options name any
ModelFactory = Callable[[FittedSchema], RankingModel]


@dataclass(frozen=True)
class DataOptions:
    """Which rows, and what their columns mean.

    Args:
        card: A dataset card (YAML), or the bare name of a shipped one; not needed for a prepared dataset.
        train: Training rows: a CSV, Parquet or Arrow file, a glob, a folder of them, or a prepared dataset.
        valid: Validation rows; without them a share of the training groups is held out.
        test: Test rows, measured once at the end.
        holdout: The share of the training groups to hold out when there are no validation rows.
        cache: Where prepared datasets are kept; by default `recmtl` in the user's cache folder.
        bad_rows: What becomes of rows that do not parse: the first is an error, or all are left out and counted.
    """

    card: str | None = None
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    holdout: float = 0.1
    cache: Path | None = None
    bad_rows: BadRows = "error"


# The classes that take the options below a key; others are named by a `class_path`.
OPTION_CLASSES = {"data": DataOptions, "trainer": Trainer} | {
    f"trainer.{name}": kind
    for name, kind in {"optimization": Optimization, "stopping": EarlyStopping, "run": RunConfig}.items()
}


def recipe_parser(prog: str, description: str | None = None) -> ArgumentParser:
    """Build the parser of a command that takes a recipe, to be used by `parse_recipe`."""
    parser = ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False, description=description)
    parser.add_argument("--config", action="config", help="A recipe (YAML), or the bare name of a shipped one.")
    add_recipe(parser)
    return parser


def parse_recipe(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse options, those of a recipe among them; what neither names starts as `DEFAULT_CLASSES` says.

    Raises:
        UsageError: An option or a key of a recipe cannot be used.
        SchemaError: There is no such recipe.
        ValueError: A recipe holds what none can.
    """
    config = parse_options(parser, [*DEFAULT_CLASSES, *resolve_recipes(arguments)])
    check_nulls(config, OPTION_CLASSES)
    return config


def resolve_recipes(arguments: Sequence[str]) -> Iterator[str]:
    """Replace the bare name of a shipped recipe after `--config` by its file."""
    named = False
    for argument in arguments:
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


def add_recipe(parser: ArgumentParser) -> None:
    """Add the keys of a recipe to a parser.

    Model and balancer have no default: its options would be kept for another class.
    """
    parser.add_class_arguments(DataOptions, "data")
    parser.add_argument("--model", type=ModelFactory, help="The ranking model, by default MMOE.")
    parser.add_argument("--balancer", type=Balancer, help="Balances the shared gradient, by default Sum.")
    parser.add_class_arguments(Trainer, "trainer", skip={"model", "balancer"}, instantiate=False)
