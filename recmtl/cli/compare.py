"""The command that compares: a grid of models, balancers and seeds, and a table of what differs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.table import Table
from rich.text import Text

from recmtl.cli.console import wide_console
from recmtl.cli.parser import usage_errors
from recmtl.comparison.grid import Grid
from recmtl.comparison.runner import run_grid
from recmtl.comparison.tables import ResultTable, sheets
from recmtl.recipe.recipe import parse_recipe, recipe_parser

SOME_FAILED = 1


@usage_errors()
def compare_command(arguments: Sequence[str]) -> int:
    """Train a grid of models, balancers and seeds, and show which differences are real.

    Args:
        arguments: What is combined with what, and the keys of a recipe as options, or a recipe that holds them.

    Returns:
        The exit status, 1 where a run failed.

    Raises:
        UsageError: No models are named, or no folder; or an option does not fit.
    """
    parser = compare_parser()
    given = parse_recipe(parser, arguments)
    if given.models is None or given.out is None:
        raise ValueError(f"give {'`--models`, what is compared' if given.out else '`--out`, the folder to write'}")
    grid = Grid(given.models, given.balancers, given.seeds, given.learning_rates)
    comparison = run_grid(parser, arguments, grid, given.out, given.metric, given.jobs)
    print_sheets(sheets(comparison, given.metric))
    return SOME_FAILED if (comparison.cells["state"] != "finished").any() else 0


def compare_parser() -> ArgumentParser:
    """Build the parser of `recmtl compare`: the keys of a recipe, and what the grid is."""
    parser = recipe_parser("recmtl compare", (compare_command.__doc__ or "").splitlines()[0])
    entry = str | dict[str, Any]
    options = (
        "a name; or, for options that are not the recipe's, a YAML file or a mapping with class_path and init_args"
    )
    parser.add_argument("--models", type=entry, nargs="+", metavar="MODEL", help=f"The models, each {options}.")
    parser.add_argument(
        "--balancers",
        type=entry,
        nargs="+",
        metavar="BALANCER",
        default=["Sum"],
        help=f"The balancers, each {options}. SingleTask is trained with Sum alone.",
    )
    parser.add_argument(
        "--seeds", type=int | list[int], default=5, metavar="N|[S,…]", help="How many seeds, from 0, or a list of them."
    )
    parser.add_argument(
        "--learning-rates",
        type=float,
        nargs="+",
        default=[],
        metavar="LR",
        help="Of the optimizer, if not the recipe's.",
    )
    parser.add_argument(
        "--metric", type=str | None, default=None, help="What the tables show; by default AUC, of a regression MAE."
    )
    parser.add_argument("--jobs", type=int, default=1, help="How many runs at once.")
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        metavar="DIR",
        help="The comparison's folder. What is finished there is kept, what failed or was interrupted goes on.",
    )
    return parser


def print_sheets(shown: Sequence[ResultTable]) -> None:
    """Print tables, with their notes below."""
    console = wide_console()
    for sheet in shown:
        table = Table()
        for i, name in enumerate(sheet.header):
            table.add_column(Text(name), justify="left" if i < sheet.named else "right", overflow="fold")
        for row in sheet.rows:
            table.add_row(*(Text(str(field), style="bold" if field.bold else "") for field in row))
        console.print(table)
        for note in sheet.notes:
            console.print(note, markup=False)
