"""The `compare` command: train a grid of models, balancers and seeds, and test their differences."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from jsonargparse import ArgumentParser
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from recmtl.cli.console import text_table, wide_console
from recmtl.cli.parser import usage_errors
from recmtl.cli.terminal import end, interrupted_status
from recmtl.comparison.grid import Grid, GridRun
from recmtl.comparison.progress import GridBar, RunEnd
from recmtl.comparison.runner import run_grid, tune_grid
from recmtl.comparison.tables import ResultTable, result_tables
from recmtl.comparison.tuned import TRIALS, Budget
from recmtl.errors import counted
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.tuning.progress import TuningBar

SOME_FAILED = 1


@usage_errors()
def compare_command(arguments: Sequence[str]) -> int:
    """Train a grid of models, balancers and seeds, and show which differences are real."""
    parser = compare_parser()
    given = parse_recipe(parser, arguments)
    if given.models is None or given.out is None:
        missing = "`--out`, the folder to write" if given.out is None else "`--models`, the models to compare"
        raise ValueError(f"give {missing}")
    grid = Grid(given.models, given.balancers, given.seeds, given.learning_rates, given.baselines)
    tuned = None
    if not given.tuned and (given.trials is not None or given.search is not None):
        raise ValueError("`--trials` and `--search` say how options are searched: give `--tuned` as well")
    try:
        if given.tuned:
            budget = Budget(TRIALS if given.trials is None else given.trials, given.search)
            with TuningBar() as searching:
                tuned = tune_grid(parser, arguments, grid, given.out, budget, searching, given.jobs, given.metric)
        with LiveTable() if sys.stderr.isatty() else GridBar() as progress:
            comparison = run_grid(parser, arguments, grid, given.out, progress, given.metric, given.jobs, tuned)
    except KeyboardInterrupt as error:
        return end(f"{str(error) or 'interrupted'}: the same command resumes it", interrupted_status(error))
    print_tables(result_tables(comparison, given.metric))
    return SOME_FAILED if (comparison.runs["state"] != "finished").any() else 0


def compare_parser() -> ArgumentParser:
    """Build the parser of `recmtl compare`: the keys of a recipe and the options of the grid."""
    parser = recipe_parser("recmtl compare", (compare_command.__doc__ or "").splitlines()[0])
    parser.usage = (
        "recmtl compare --models MODEL … --out DIR --data.train FILE (--label COLUMN | --data.card CARD) [OPTIONS]"
    )
    entry = str | dict[str, Any]
    options = "a name; or, for options other than the recipe's, a YAML file or a mapping with class_path and init_args"
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
        "--seeds",
        type=int | list[int],
        default=5,
        metavar="N|[S,…]",
        help="The number of seeds from 0, or a list of seeds.",
    )
    parser.add_argument(
        "--learning-rates",
        type=float,
        nargs="+",
        default=[],
        metavar="LR",
        help="Learning rates of the optimizer; by default the recipe's.",
    )
    parser.add_argument(
        "--baselines",
        type=entry,
        nargs="+",
        default=[],
        metavar="BASELINE",
        help="Models of other libraries beside them, one per task on the same rows: lightgbm (extra `baselines`), "
        "histgb and logistic; for options of the library a mapping as above.",
    )
    parser.add_argument(
        "--metric",
        type=str | None,
        default=None,
        help="The metric in the tables; by default AUC (regression: MAE).",
    )
    parser.add_argument("--jobs", type=int, default=1, help="How many runs at once; they share the CPUs.")
    parser.add_argument(
        "--tuned",
        action="store_true",
        help="First search the options of each model and balancer, and of each baseline those that it is not given, on "
        "the validation rows by the same number of trials; its seeds have the best ones.",
    )
    trials = f"With `--tuned`, the trials of each, by default {TRIALS}."
    parser.add_argument("--trials", type=int | None, default=None, metavar="N", help=trials)
    parser.add_argument(
        "--search",
        type=Path | None,
        default=None,
        metavar="SPACE",
        help="With `--tuned`, the search space of models and balancers, as of `tune`; by default learning rate and "
        "options of the balancer.",
    )
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        metavar="DIR",
        help="The comparison's folder. Finished runs in it are kept, failed and interrupted ones resume.",
    )
    return parser


def print_tables(tables: Sequence[ResultTable]) -> None:
    """Print tables, with their notes below."""
    console = wide_console()
    for table in tables:
        rows = [[Text(cell.text, style="bold" if cell.bold else "") for cell in row] for row in table.rows]
        console.print(text_table(table.header, rows, table.key_columns))
        for note in table.notes:
            console.print(note, markup=False)


class LiveTable:
    """Table of a comparison: a row for each variant, a column for each seed."""

    def __init__(self) -> None:
        self._runs: dict[str, GridRun] = {}
        self._results: dict[str, str] = {}
        self._started: dict[str, float] = {}
        self._rows: dict[str, int] = {}
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._live = Live(console=self._console, get_renderable=self._render, auto_refresh=True, refresh_per_second=2)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def count_rows(self, what: str, rows: int) -> None:
        """Count rows that were just read or written while data is prepared."""
        self._rows[what] = self._rows.get(what, 0) + rows

    def warn(self, text: str) -> None:
        """Print a warning above the table."""
        self._console.print(f"note: {text}", markup=False)

    def begin(self, runs: Sequence[GridRun]) -> None:
        """Show the table."""
        self._runs = {run.name: run for run in runs}

    def start(self, run: GridRun) -> None:
        """Show the seconds of a run that started."""
        self._started[run.name] = time.monotonic()

    def finish(self, end: RunEnd) -> None:
        """Show the result of a run; print the error of a failed one above the table."""
        self._started.pop(end.run.name, None)
        self._results[end.run.name] = "failed" if end.error else end.result
        if end.error:
            self._console.print(f"{len(self._results)} of {len(self._runs)} · {end}", markup=False)

    def _render(self) -> Table | Text:
        if not self._runs:
            return Text(" · ".join(f"{name}: {counted(count, 'row')}" for name, count in self._rows.items()))
        by_variant: dict[object, dict[int, GridRun]] = {}
        for run in self._runs.values():
            by_variant.setdefault(run.variant, {})[run.seed] = run
        seeds = list(dict.fromkeys(run.seed for run in self._runs.values()))
        rows = [[str(variant), *(self._state(runs[seed]) for seed in seeds)] for variant, runs in by_variant.items()]
        table = text_table(["run", *(f"seed {seed}" for seed in seeds)], rows)
        table.caption = f"{len(self._results)} of {len(self._runs)} runs · best value on the validation rows"
        return table

    def _state(self, run: GridRun) -> str:
        if run.name in self._started:
            return f"{time.monotonic() - self._started[run.name]:.0f} s …"
        return self._results.get(run.name, "·")
