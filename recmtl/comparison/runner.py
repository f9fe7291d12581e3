"""Run a comparison: prepare its data, train its runs and write its tables."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from recmtl.comparison.comparison import CONTENT, Comparison, metrics_by_task
from recmtl.comparison.export import write_tables
from recmtl.comparison.grid import Entry, Grid, GridRun, Variant
from recmtl.comparison.jobs import RUNS_FOLDER, check_finished, differs_in, end_of, run_jobs, state_of
from recmtl.comparison.progress import GridBar, GridProgress
from recmtl.comparison.tuned import SEARCHES, Budget, TunedGrid, is_searched, tune_runs
from recmtl.data import PreparedData
from recmtl.errors import DataError, RunError
from recmtl.evaluate import own_metrics
from recmtl.io.files import check_local, locked
from recmtl.models.loss_options import loss_options
from recmtl.recipe.data import open_data
from recmtl.recipe.data_options import DataOptions
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.recipe import check_recipes, data_options, instantiate
from recmtl.runs.checkpoints import prune
from recmtl.runs.folder import LOCK_FILE, RunFolder
from recmtl.schema import Schema, Task
from recmtl.tuning.progress import TuningBar, TuningProgress


def compare(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    models: Sequence[Entry],
    balancers: Sequence[Entry] = ("Sum",),
    seeds: int | Sequence[int] = 5,
    learning_rates: Sequence[float] = (),
    baselines: Sequence[Entry] = (),
    options: Mapping[str, Any] | None = None,
    metric: str | None = None,
    jobs: int = 1,
    tuned: Budget | None = None,
    progress: bool = True,
) -> Comparison:
    """Train a grid of models, balancers and seeds from one recipe, and write tables of the results.

    Finished runs in the folder are kept; failed and interrupted ones resume from their last checkpoint. Each run is a
    process of its own and has an ordinary run folder.

    Args:
        recipe: A file, the name of a shipped recipe, or its content. Its model options also apply to the other models
            that have arguments of these names; likewise for balancers.
        out: The comparison's folder.
        models: Names of models; or, for options other than the recipe's, mappings with `class_path` and `init_args`,
            such mappings as text, or YAML files with one.
        balancers: Likewise. `SingleTask`, which shares no parameters, is trained with `Sum` alone.
        seeds: The number of seeds, counted from 0, or a list of seeds.
        learning_rates: Learning rates of the optimizer; empty takes the recipe's.
        baselines: Models of other libraries to compare with, one per task on the same rows: `lightgbm`, `histgb`
            (boosted trees of scikit-learn) and `logistic`; or mappings with `class_path`, one of these, and
            `init_args`, options of the library.
        options: Options that override the recipe, by dotted key, such as ``{"data.train": "train.csv"}``.
        metric: The metric in the tables, for the tasks that have it; by default each task's main metric (AUC if
            binary).
        jobs: How many runs at once.
        tuned: What each model and balancer, and each baseline, is searched with before, on the validation rows: its
            runs have the best options then, and are trained anew if more trials find others. ``None`` takes those of
            the recipe.
        progress: Whether to show progress.

    Raises:
        ValueError: An option is out of range or unknown.
        UsageError: The library of a baseline is not installed.
        DataError: The data cannot be read, or there are neither test nor validation rows; if tuned, no test rows.
        RunError: The folder holds something else, or a finished run with another recipe; or another process is using
            it.
    """
    given = json.dumps(recipe) if isinstance(recipe, Mapping) else str(recipe)
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (options or {}).items()}
    arguments = [f"--config={given}", *(f"--{key}={value}" for key, value in plain.items())]
    grid = Grid(models, balancers, seeds, learning_rates, baselines)
    parser, folder, found = recipe_parser("recmtl compare"), Path(out), None
    if tuned is not None:
        with TuningBar(progress) as searching:
            found = tune_grid(parser, arguments, grid, folder, tuned, searching, jobs, metric)
    with GridBar(progress) as bar:
        return run_grid(parser, arguments, grid, folder, bar, metric, jobs, found)


def run_grid(
    parser: ArgumentParser,
    arguments: Sequence[str],
    grid: Grid,
    out: Path,
    progress: GridProgress,
    metric: str | None = None,
    jobs: int = 1,
    tuned: TunedGrid | None = None,
) -> Comparison:
    """Train the unfinished runs of a grid, which share the options `arguments`, and write its tables.

    If it was tuned, its runs have the options that were found.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` must be at least 1, got {jobs}")
    runs, searched = (grid.runs(parser, arguments), None) if tuned is None else (tuned.runs, tuned.variants)
    nets = [run for run in runs if not run.variant.is_baseline]
    if not all(run.recipe["trainer"]["run"]["predictions"] for run in nets):
        raise ValueError("a comparison tests the runs' predictions: leave `trainer.run.predictions` true")
    check_folder(out)
    with locked(out / LOCK_FILE) as lock:
        if lock is None:
            raise RunError(f"another process is using {str(out)!r}: wait for it, or give another `--out`")
        said = () if tuned is None else tuned.notes
        config = parse_recipe(parser, arguments)
        options = instantiate(parser, config).data if tuned is None else data_options(config)
        data = prepared(options, progress, partial(check_grid, runs, metric), said)
        for sentence in baseline_notes(data.schema.schema.tasks) if len(nets) < len(runs) else ():
            progress.warn(sentence)
        comparison = Comparison(out, "test" if "test" in data.splits else "valid", runs, searched)
        keys = {} if tuned is None else tuned.keys
        finished = keep_finished(comparison, data.fingerprint, keys, progress.warn)
        progress.begin(runs)
        for run in finished:
            progress.finish(end_of(run, comparison.path(run)))
        waiting = [run for run in runs if run not in finished]
        run_jobs(waiting, out / RUNS_FOLDER, jobs, lock, progress)
        comparison = Comparison(out, comparison.split, runs, searched)
        write_tables(comparison, metric)
    return comparison


def tune_grid(
    parser: ArgumentParser,
    arguments: Sequence[str],
    grid: Grid,
    out: Path,
    budget: Budget,
    progress: TuningProgress,
    jobs: int = 1,
    metric: str | None = None,
) -> TunedGrid:
    """Search the options of each model and balancer of a grid, and of each baseline, by the same number of trials.

    Raises:
        ValueError: The grid has learning rates, which the search is to find, or an option is out of range.
        RunError: The folder holds something else, or other searches.
    """
    if grid.learning_rates:
        raise ValueError("a search finds the learning rate: leave out `learning_rates`, or `tuned`")
    check_folder(out)
    with locked(out / LOCK_FILE) as lock:
        if lock is None:
            raise RunError(f"another process is using {str(out)!r}: wait for it, or give another `--out`")
        runs = grid.runs(parser, arguments)
        check_searched(out, {run.variant for run in runs if is_searched(run)})
        return tune_runs(parser, arguments, runs, out, budget, jobs, progress, partial(check_grid, runs, metric))


def check_grid(runs: Sequence[GridRun], metric: str | None, schema: Schema) -> None:
    """Check that the runs of a grid can have a schema, and that tasks have the metric of the tables.

    Raises:
        ValueError: One cannot, or no task has it.
    """
    recipes = [run.recipe for run in runs if not run.variant.is_baseline]
    check_recipes(recipes, schema)
    stopping = [recipe["trainer"]["stopping"] for recipe in recipes]
    grouped = any(one["group"] for one in stopping) or schema.group is not None
    own = {m.name for one in stopping for metrics in own_metrics(one["metrics"]).values() for m in metrics}
    metrics_by_task(schema, metric, grouped, own)


def check_searched(folder: Path, searched: Collection[Variant]) -> None:
    """Check, before any search, that no finished run of the variants to be searched has options that were not."""
    if not (folder / CONTENT).is_file():
        return
    found = Comparison.open(folder)
    for run in found.grid:
        untuned = run.variant in searched and run.variant not in found.tuned
        if untuned and state_of(found.path(run)) == "finished":
            raise RunError(f"{str(folder)!r} holds runs whose options were not searched: give another `--out`")


def keep_finished(
    comparison: Comparison,
    fingerprint: str,
    searched: Mapping[Variant, Sequence[str]],
    warn: Callable[[str], None],
) -> list[GridRun]:
    """Return the runs that need no training, and remove unfinished ones that began on other data.

    Finished runs of a variant that was searched before are removed too if more trials have found other values of its
    `searched` keys. One that differs otherwise, or was trained on other data, is an error.
    """
    folder = comparison.folder
    before = Comparison.open(folder).tuned if (folder / CONTENT).is_file() else {}
    finished = [run for run in comparison.grid if state_of(comparison.path(run)) == "finished"]
    if not is_data_of(folder, fingerprint):
        if finished:
            raise RunError(f"the runs in {str(folder)!r} were trained on other data: give another `--out`")
        for run in comparison.grid:
            shutil.rmtree(comparison.path(run), ignore_errors=True)
    outdated = Counter[Variant]()
    for run in [*finished]:
        keys = searched.get(run.variant, ()) if run.variant in before else ()
        if differs_in(run, comparison.path(run), keys):
            finished.remove(run)
            outdated[run.variant] += 1
        else:
            check_finished(run, comparison.path(run))
    for variant, count in outdated.items():
        warn(f"{variant}: more trials have found other options: runs that were finished are trained anew: {count}")
    for run in comparison.grid:
        if run.variant in outdated and run not in finished:
            shutil.rmtree(comparison.path(run), ignore_errors=True)
    for run in finished:
        prune(RunFolder(comparison.path(run)), 0)  # checkpoints are left if the process was killed at the end
    comparison.save(fingerprint)
    return finished


def check_folder(folder: Path) -> None:
    """Check that a folder is empty, missing, or the folder of a comparison."""
    check_local(folder)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{str(folder)!r} is a file: `--out` must be a folder")
    if (folder / CONTENT).exists() and not Comparison.is_record(folder / CONTENT):
        raise RunError(
            f"{str(folder / CONTENT)!r} is no record of a comparison, or a damaged one: give another `--out`"
        )
    if not folder.is_dir() or (folder / CONTENT).is_file():
        return
    killed = {path.name for path in folder.glob(f".{CONTENT}.*.partial")}  # left by a start that was killed
    if {path.name for path in folder.iterdir()} - {LOCK_FILE, SEARCHES} - killed:
        raise RunError(f"{str(folder)!r} is not empty and not a comparison: give another `--out`")


def is_data_of(folder: Path, fingerprint: str) -> bool:
    """Return whether the comparison in a folder was begun on data with this fingerprint."""
    path = folder / CONTENT
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8"))["data"] == fingerprint)


def baseline_notes(tasks: Sequence[Task]) -> list[str]:
    """Return a sentence on each task whose loss has options that no baseline knows."""
    unknown = {task.name: [option for option in loss_options(task) if option != "`weight`"] for task in tasks}
    return [
        f"the baselines leave out the {' and '.join(options)} of task {name!r}"
        for name, options in unknown.items()
        if options
    ]


def prepared(
    options: DataOptions,
    progress: GridProgress,
    check: Callable[[Schema], None],
    said: Sequence[str] = (),
) -> PreparedData:
    """Open the data of all runs; raw files are prepared into the cache once. Notes that were said are not repeated."""
    data = open_data(options, progress.count_rows, check)
    for note in data.notes:
        if note not in said:
            progress.warn(note)
    if not {"test", "valid"} & set(data.splits):
        raise DataError("there are neither test nor validation rows to compare on: give `--data.test`")
    return data
