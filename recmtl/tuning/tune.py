"""Search for the best options of a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from recmtl.data import PreparedData
from recmtl.errors import RunError, UsageError
from recmtl.io.files import check_local, locked
from recmtl.recipe.options import recipe_parser
from recmtl.runs.folder import LOCK_FILE
from recmtl.train import Trainer
from recmtl.tuning.extremes import check_extremes
from recmtl.tuning.progress import TuningBar, TuningProgress
from recmtl.tuning.recipes import SearchedRecipe
from recmtl.tuning.record import RECORD, Pruner, SearchRecord
from recmtl.tuning.results import Tuning
from recmtl.tuning.space import read_space
from recmtl.tuning.study import Search, check_optuna
from recmtl.tuning.tables import write_best, write_results
from recmtl.tuning.workers import TrialPool


def tune(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    search: str | Path | Mapping[str, Any] | None = None,
    trials: int = 50,
    options: Mapping[str, Any] | None = None,
    jobs: int = 1,
    pruner: Pruner = "median",
    seed: int = 0,
    progress: bool = True,
) -> Tuning:
    """Search for the options of a recipe that do best on the validation rows, as `recmtl tune` does.

    Trials that ended stay in the folder: a search that was interrupted goes on, and more trials can be added.

    Args:
        recipe: A file, the name of a shipped recipe, or its content.
        out: The folder of the search.
        search: The search space, or a YAML file with one: dotted or nested keys with a range
            ``{"low": 0.001, "high": 0.1, "log": True}``, a list of choices, or, for a class, a mapping from its name to
            a space of its own options. ``None`` searches the learning rate and the options of the recipe's balancer.
        trials: How many trials shall end: finished, pruned or failed.
        options: Options that override the recipe, by dotted key, such as ``{"data.train": "train.csv"}``.
        jobs: How many trials run at once, in processes of their own.
        pruner: Ends trials early that fall behind others at the same evaluation: ``median`` or ``none``.
        seed: The seed of the search. With one job, it decides all trials.
        progress: Whether to show progress.

    Raises:
        UsageError: An option, or a key or range of the search space, cannot be used; or Optuna is not installed.
        DataError: The data cannot be read, or there are no validation rows.
        RunError: The folder holds something else, a search of another recipe, space or data, or one with more trials;
            another process works in it; or all trials failed.
    """
    given = json.dumps(recipe) if isinstance(recipe, Mapping) else str(recipe)
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (options or {}).items()}
    arguments = (f"--config={given}", *(f"--{key}={value}" for key, value in plain.items()))
    with TuningBar(progress) as bar:
        searched = SearchedRecipe(recipe_parser("recmtl tune"), arguments)
        return run_tuning(searched, Path(out), search, trials, jobs, pruner, seed, bar)


def run_tuning(
    recipe: SearchedRecipe,
    out: Path,
    space: str | Path | Mapping[str, Any] | None,
    trials: int,
    jobs: int,
    pruner: Pruner,
    seed: int,
    progress: TuningProgress,
) -> Tuning:
    """Run the trials of a search that are still to be run, and write its tables."""
    check_optuna()
    check_counts(trials, jobs)
    content = None if space is None else read_space(space)
    check_folder(out)
    with locked(out / LOCK_FILE) as lock:
        if lock is None:
            raise RunError(f"another process is using {str(out)!r}: wait for it, or give another `--out`")
        data = recipe.open_data(progress.count_rows)
        for note in data.notes:
            progress.warn(note)
        trainer = recipe.trainer(data.schema)
        search = plan_search(recipe, out, trainer, data, content, trials, pruner, seed)()
        if any(option.key == "model" for option in search.space.options) and "." not in search.record.monitor:
            progress.warn(
                f"{search.record.monitor} is the mean over the objectives of each model, which may differ: to compare "
                f"models name that of one task, `--trainer.stopping.monitor TASK.{search.record.monitor}`"
            )
        TrialPool({"": search}, jobs, out, progress, after=write_best).run()
        write_best(search)
        tuning = Tuning(out)
        write_results(tuning)
        if tuning.best_value is None:
            raise nothing_finished(tuning)
    return tuning


def plan_search(
    recipe: SearchedRecipe,
    folder: Path,
    trainer: Trainer,
    data: PreparedData,
    space: Mapping[str, Any] | None,
    trials: int,
    pruner: Pruner,
    seed: int,
) -> Callable[[], Search]:
    """Check a search, and return what opens it in its folder, or begins it.

    Args:
        recipe: The recipe.
        folder: The folder, which is locked.
        trainer: The recipe's trainer.
        data: The data, of which training and validation rows are read.
        space: The search space; ``None`` takes the default one.
        trials: How many trials shall end.
        pruner: How trials are pruned.
        seed: The seed of the search.

    Raises:
        UsageError: A key, a range or a value in the search space cannot be used.
    """
    found = recipe.space(recipe.default_space(trainer) if space is None else space, trainer)
    if space is not None and not (folder / RECORD).exists():
        check_extremes(recipe, found, data.schema)
    monitor = trainer.setup.metric_monitor()
    record = SearchRecord(
        recipe.of_trial(), found.record(), data_key(data), monitor.monitor, monitor.higher_is_better, seed, pruner
    )
    return partial(Search, folder, recipe, found, record, trials)


def data_key(data: PreparedData) -> str:
    """Return the fingerprint of the schema, the training rows and the validation rows."""
    return replace(data, splits={name: rows for name, rows in data.splits.items() if name != "test"}).fingerprint


def check_counts(trials: int, jobs: int) -> None:
    """Check the numbers of trials and of jobs."""
    for name, value in (("trials", trials), ("jobs", jobs)):
        if value < 1:
            raise UsageError(f"`--{name}` must be at least 1, got {value}")


def check_folder(folder: Path) -> None:
    """Check that a folder is empty, missing, or that of a search.

    Raises:
        RunError: It holds something else.
    """
    check_local(folder)
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{str(folder)!r} is a file: `--out` must be a folder")
    if not folder.is_dir() or (folder / RECORD).is_file():
        return
    killed = {path.name for path in folder.glob(f".{RECORD}.*.partial")}  # left by a start that was killed
    if {path.name for path in folder.iterdir()} - {LOCK_FILE} - killed:
        raise RunError(f"{str(folder)!r} is not empty and no search: give another `--out`")


def nothing_finished(tuning: Tuning) -> RunError:
    """Build the error of a search without a best recipe."""
    reasons = tuning.trials["reason"].dropna()
    one = len(tuning.trials) == 1
    reason = f" failed{'' if one else ', the first one'}: {reasons.iloc[0]}" if len(reasons) else " ended early"
    which = "the only trial" if one else f"all {len(tuning.trials)} trials"
    return RunError(f"{which} in {str(tuning.folder)!r}{reason}")
