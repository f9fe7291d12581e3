"""A search of its own for each model and balancer of a grid, and each baseline, with the same number of trials."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from recmtl.comparison.baselines.run import monitor_of_baseline
from recmtl.comparison.baselines.searched import SearchedBaseline
from recmtl.comparison.grid import GridRun, Variant, with_seed
from recmtl.data import PreparedData
from recmtl.errors import DataError, RunError
from recmtl.io.partitions import files_of
from recmtl.recipe.options import parse_recipe
from recmtl.recipe.recipe import data_options
from recmtl.schema import Schema
from recmtl.tuning.progress import TuningProgress, shown_values
from recmtl.tuning.recipes import SearchedRecipe, balancer_space, space_of_variant
from recmtl.tuning.record import Pruner, SearchRecord
from recmtl.tuning.results import Tuning
from recmtl.tuning.space import read_space
from recmtl.tuning.study import Search, check_optuna
from recmtl.tuning.tables import write_best, write_results
from recmtl.tuning.tune import check_counts, data_key, nothing_finished, plan_search
from recmtl.tuning.workers import TrialPool

SEARCHES = "searches"  # the folder of the searches
TRIALS = 20  # of each variant


@dataclass(frozen=True)
class Budget:
    """What each variant is searched with.

    Args:
        trials: The number of trials of each.
        search: The search space, or a file with one; ``None`` takes the default ones.
        pruner: How trials are pruned.
        seed: The seed of the searches.
    """

    trials: int = TRIALS
    search: str | Path | Mapping[str, Any] | None = None
    pruner: Pruner = "median"
    seed: int = 0


@dataclass(frozen=True)
class TunedVariant:
    """The result of a variant's search.

    Args:
        trials: How many trials ended.
        options: Its best options as text; empty if all trials failed.
        pruned: How many of the trials were pruned.
        failed: How many failed.
        error: Why they failed; ``None`` if one was trained to its end.
    """

    trials: int
    options: str
    pruned: int = 0
    failed: int = 0
    error: str | None = None


@dataclass(frozen=True)
class TunedGrid:
    """The runs of a grid with the best options of each variant, and the results of the searches.

    Args:
        runs: The runs. A variant all of whose trials failed has none.
        variants: The result of each variant's search.
        keys: The keys of the recipe that were searched for each variant.
        notes: The notes on the data that were shown.
    """

    runs: Sequence[GridRun]
    variants: Mapping[Variant, TunedVariant]
    keys: Mapping[Variant, Sequence[str]]
    notes: Sequence[str] = ()


def tune_runs(
    parser: ArgumentParser,
    arguments: Sequence[str],
    runs: Sequence[GridRun],
    out: Path,
    budget: Budget,
    jobs: int,
    progress: TuningProgress,
    check: Callable[[Schema], None],
) -> TunedGrid:
    """Search the options of each variant of a grid. Test rows are not opened.

    Searches run side by side, each of them one trial at a time, so that it is the same as alone. `check` is called with
    the schema before rows are prepared.

    Raises:
        DataError: There are no test rows.
        RunError: All trials of all variants failed.
    """
    check_optuna()
    check_counts(budget.trials, jobs)
    content = None if budget.search is None else read_space(budget.search)
    first: dict[Variant, GridRun] = {}
    for run in runs:
        first.setdefault(run.variant, run)
    data = SearchedRecipe(parser, tuple(arguments)).open_data(progress.count_rows, check)
    _check_test_rows(parser, arguments, data)
    for note in data.notes:
        progress.warn(note)
    searched = {variant: run for variant, run in first.items() if is_searched(run)}
    planned = {v: _plan(parser, run, out / SEARCHES, data, budget, content) for v, run in searched.items()}
    searches = {variant: begin() for variant, begin in planned.items()}  # none is begun before all are checked
    named = {str(variant): search for variant, search in searches.items()}
    TrialPool(named, jobs, out / SEARCHES, progress, each=1, after=write_best).run()
    return replace(_with_best(runs, searches), notes=data.notes)


def is_searched(run: GridRun) -> bool:
    """Return whether the options of a run are searched: not those of a baseline to which all are given."""
    return not run.variant.is_baseline or bool(SearchedBaseline(run.recipe).space.options)


def _plan(
    parser: ArgumentParser, run: GridRun, folder: Path, data: PreparedData, budget: Budget, content: Any
) -> Callable[[], Search]:
    """Check the search of a variant, whose trials have the seed of its first run, and return what begins it."""
    if run.variant.is_baseline:
        return _plan_baseline(run, folder, data, budget)
    recipe = SearchedRecipe(parser, (f"--config={json.dumps(run.recipe)}",))
    trainer = recipe.trainer(data.schema)
    if content is not None:
        classes = (type(trainer.model).__name__, type(trainer.balancer).__name__)
        content = space_of_variant(content, *classes, balancer_space(trainer))
    options = (budget.trials, budget.pruner, budget.seed)
    return plan_search(recipe, folder / run.variant.name, trainer, data, content, *options)


def _plan_baseline(run: GridRun, folder: Path, data: PreparedData, budget: Budget) -> Callable[[], Search]:
    """Return what begins the search of a baseline, in the space of its kind and by the metric of the nets."""
    baseline, monitor = SearchedBaseline(run.recipe), monitor_of_baseline(run.recipe, data.schema.schema)
    decided = data_key(data), monitor.monitor, monitor.higher_is_better
    record = SearchRecord(baseline.of_trial(), baseline.space.record(), *decided, budget.seed, budget.pruner)
    return partial(Search, folder / run.variant.name, baseline, baseline.space, record, budget.trials)


def _with_best(runs: Sequence[GridRun], searches: Mapping[Variant, Search]) -> TunedGrid:
    """Write the results of all searches, and return the runs with the best recipes."""
    recipes, variants, failures = dict[Variant, dict[str, Any]](), dict[Variant, TunedVariant](), list[RunError]()
    for variant, search in searches.items():
        write_best(search)
        tuning = Tuning(search.folder)
        write_results(tuning)
        recipe, count = search.best_recipe(), len(tuning.trials)
        pruned, failed = (int((tuning.trials["state"] == state).sum()) for state in ("pruned", "failed"))
        options = "" if recipe is None else shown_values(tuning.best_options)
        if recipe is None:
            failures.append(nothing_finished(tuning))
        else:
            recipes[variant] = recipe
        error = str(failures[-1]) if recipe is None else None
        variants[variant] = TunedVariant(count, options, pruned, failed, error)
    if failures and not recipes:
        raise failures[0]
    kept = [run for run in runs if run.variant in recipes or run.variant not in searches]
    tuned = [
        replace(run, recipe=with_seed(recipes[run.variant], run.seed)) if run.variant in recipes else run
        for run in kept
    ]
    keys = {variant: [option.key for option in search.space.options] for variant, search in searches.items()}
    return TunedGrid(tuned, variants, keys)


def _check_test_rows(parser: ArgumentParser, arguments: Sequence[str], data: PreparedData) -> None:
    """Check that there are test rows, which can be found later, without opening them."""
    rows = data_options(parse_recipe(parser, arguments)).rows("test")
    if rows is not None:
        files_of(rows)
    elif not len(data.splits.get("test", ())):
        raise DataError(
            "there are no test rows to compare tuned methods on, as the validation rows chose their options: give "
            "`--data.test`"
        )
