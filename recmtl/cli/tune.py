"""The `tune` command: search for the options of a recipe that do best on the validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.text import Text

from recmtl.cli.console import print_line, text_table, wide_console
from recmtl.cli.parser import usage_errors
from recmtl.cli.terminal import end, interrupted_status
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.tuning.progress import TuningBar
from recmtl.tuning.recipes import SearchedRecipe
from recmtl.tuning.record import Pruner
from recmtl.tuning.results import BEST, Tuning
from recmtl.tuning.tables import TABLE, notes, tables
from recmtl.tuning.tune import run_tuning

SEARCH_HELP = (
    "The search space: a YAML file that maps keys of the recipe to ranges or lists of choices. By default the learning "
    "rate and the options of the balancer are searched."
)
TRIALS_HELP = "How many trials shall end; those in the folder count."
JOBS_HELP = "How many trials at once; they share the CPUs. With one, the seed decides all trials."
PRUNER_HELP = "What ends trials early that fall behind others at the same evaluation."
OUT_HELP = "The folder of the search. Trials in it are kept, and a search that was interrupted goes on."


@usage_errors()
def tune_command(arguments: Sequence[str]) -> int:
    """Search for the options of a recipe that do best on the validation rows."""
    parser = tune_parser()
    given = parse_recipe(parser, arguments)
    if given.out is None:
        raise ValueError("give `--out`, the folder to write")
    try:
        with TuningBar() as progress:
            recipe = SearchedRecipe(parser, tuple(arguments))
            tuning = run_tuning(
                recipe, given.out, given.search, given.trials, given.jobs, given.pruner, given.seed, progress
            )
    except KeyboardInterrupt as error:
        why = f"{str(error) or 'interrupted'}: the same command goes on with the next trial"
        return end(why, interrupted_status(error))
    print_tuning(tuning)
    return 0


def tune_parser() -> ArgumentParser:
    """Build the parser of `recmtl tune`: the keys of a recipe and the options of the search."""
    parser = recipe_parser("recmtl tune", (tune_command.__doc__ or "").splitlines()[0])
    parser.usage = (
        "recmtl tune --config RECIPE --search SPACE --out DIR --data.train FILE (--label COLUMN | --data.card CARD) "
        "[OPTIONS]"
    )
    parser.add_argument("--search", type=Path | None, default=None, metavar="SPACE", help=SEARCH_HELP)
    parser.add_argument("--trials", type=int, default=50, metavar="N", help=TRIALS_HELP)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help=JOBS_HELP)
    parser.add_argument("--pruner", type=Pruner, default="median", help=PRUNER_HELP)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="The seed of the search.")
    parser.add_argument("--out", type=Path | None, default=None, metavar="DIR", help=OUT_HELP)
    return parser


def print_tuning(tuning: Tuning) -> None:
    """Print what mattered, and where the best recipe is."""
    console = wide_console()
    for table in tables(tuning):
        rows = [[Text(cell) for cell in row] for row in table.rows]
        console.print(text_table(table.header, rows, table.left))
    for note in notes(tuning):
        console.print(note, markup=False)
    print_line(f"best recipe in {tuning.folder / BEST}, tables in {tuning.folder / TABLE}")
