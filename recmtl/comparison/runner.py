"""A comparison from its grid to its tables."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

from recmtl.cli.console import Counter
from recmtl.cli.live_table import LiveTable
from recmtl.comparison.comparison import CONTENT, Comparison, metrics_by_task
from recmtl.comparison.export import write_tables
from recmtl.comparison.grid import Entry, Grid
from recmtl.comparison.jobs import CELLS, check_finished, run_cells, state_of
from recmtl.data import DataError, PreparedData
from recmtl.data.columns.values import as_text, stable_hash
from recmtl.io.files import locked
from recmtl.recipe.recipe import instantiated, open_data, parse_recipe, recipe_parser
from recmtl.train import RunError

LOCK = ".lock"
WINDOW = 1 << 16  # rows that are looked at together


def compare(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    models: Sequence[Entry],
    balancers: Sequence[Entry] = ("Sum",),
    seeds: int | Sequence[int] = 5,
    learning_rates: Sequence[float] = (),
    options: Mapping[str, Any] | None = None,
    metric: str | None = None,
    jobs: int = 1,
) -> Comparison:
    """Train a grid of models, balancers and seeds from one recipe, and write its tables.

    What is finished in the folder is not run again; what failed or was interrupted goes on from its last checkpoint.
    Each run is a process of its own, and its run folder is like any other.

    Args:
        recipe: A file, the bare name of a shipped one, or its content. What it says of its own model holds for the
            others where they have an argument of that name; likewise for balancers.
        out: The comparison's folder.
        models: Names of models; or mappings with `class_path` and `init_args`, or YAML files of such, for options that
            are not the recipe's.
        balancers: Likewise. A model that shares nothing, `SingleTask`, is trained with `Sum` alone.
        seeds: How many, from 0, or a list of them.
        learning_rates: Of the optimizer; without any it is the recipe's.
        options: What follows the recipe, by its dotted key, such as ``{"data.train": "train.csv"}``.
        metric: What the tables show of the tasks that have it; by default each task's main one, AUC first.
        jobs: How many runs at once.

    Raises:
        ValueError: An option is out of its range or names nothing.
        DataError: The data cannot be read, or there are no rows to compare on.
        RunError: The folder holds something else, or a finished run that would be another now; or another process is
            at work in it.
    """
    given = json.dumps(recipe) if isinstance(recipe, Mapping) else str(recipe)
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (options or {}).items()}
    arguments = [f"--config={given}", *(f"--{key}={value}" for key, value in plain.items())]
    grid = Grid(models, balancers, seeds, learning_rates)
    return run_grid(recipe_parser("recmtl compare"), arguments, grid, Path(out), metric, jobs)


def run_grid(
    parser: ArgumentParser, arguments: Sequence[str], grid: Grid, out: Path, metric: str | None = None, jobs: int = 1
) -> Comparison:
    """Run what is not finished of a grid, and write its tables.

    Args:
        parser: Of `recipe_parser`.
        arguments: What it parses: the options that all runs share.
        grid: The runs.
        out: The comparison's folder.
        metric: What the tables show.
        jobs: How many runs at once.
    """
    if jobs < 1:
        raise ValueError(f"`jobs` must be at least 1, got {jobs}")
    cells = grid.cells(parser, arguments)
    if not all(cell.recipe["trainer"]["run"]["predictions"] for cell in cells):
        raise ValueError("a comparison is made of the runs' predictions: leave `trainer.run.predictions` true")
    check_folder(out)
    with locked(out / LOCK) as lock:
        if lock is None:
            raise RunError(f"another process is at work in {str(out)!r}: wait for it, or give another `--out`")
        data = prepared(parser, arguments)
        split = "test" if "test" in data.splits else "valid"
        metrics_by_task(data.schema.schema, metric)
        comparison = Comparison(out, split, cells)
        finished = [cell for cell in cells if state_of(comparison.path(cell)) == "finished"]
        fingerprint = identify(data)
        if finished:
            check_data(out, fingerprint)
        elif not saw(out, fingerprint):  # what came to no end is no reason to go on with rows of before
            for cell in cells:
                shutil.rmtree(comparison.path(cell), ignore_errors=True)
        for cell in finished:
            check_finished(cell, comparison.path(cell))
        comparison.save(fingerprint)
        with LiveTable(cells) as board:
            for cell in finished:
                board.kept(cell, comparison.path(cell))
            run_cells([cell for cell in cells if cell not in finished], out / CELLS, jobs, lock.fileno(), board)
        comparison = Comparison(out, split, cells)
        write_tables(comparison, metric)
    return comparison


def check_folder(folder: Path) -> None:
    """Check that a folder is a comparison's, or free to become one.

    Raises:
        RunError: It holds something else, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise RunError(f"{str(folder)!r} is a file: give `--out` a folder")
    if folder.is_dir() and not (folder / CONTENT).is_file() and any(path.name != LOCK for path in folder.iterdir()):
        raise RunError(f"{str(folder)!r} holds something else than a comparison: give another `--out`")


def identify(data: PreparedData) -> str:
    """Identify data by its fitted schema and all of its rows: encoded features, labels, weights and groups."""
    digest = hashlib.sha256(data.schema.fingerprint.encode())
    for name, rows in sorted(data.splits.items()):
        digest.update(f"{name} {len(rows)}".encode())
        for start in range(0, len(rows), WINDOW):
            digest.update(rows.packed([(start, min(start + WINDOW, len(rows)))]).numpy().data)
            if data.schema.schema.group:
                column = rows.keys[data.schema.schema.group].slice(start, WINDOW).combine_chunks()
                values, codes = as_text(column, data.schema.schema.group)
                digest.update(np.append(stable_hash(values), np.uint64(0))[codes].data)
    return digest.hexdigest()


def saw(folder: Path, fingerprint: str) -> bool:
    """Whether the runs of a comparison were begun on the data that there is now.

    Raises:
        RunError: What the folder says of it is damaged.
    """
    path = folder / CONTENT
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return bool(content.get("data") == fingerprint)
    except (ValueError, AttributeError) as error:
        raise RunError(f"{path} is damaged: remove it if no finished run is worth keeping") from error


def check_data(folder: Path, fingerprint: str) -> None:
    """Check that the finished runs of a comparison saw the data that there is now.

    Raises:
        RunError: They did not.
    """
    if not saw(folder, fingerprint):
        raise RunError(f"the runs in {str(folder)!r} were made on other data than there is now: give another `--out`")


def prepared(parser: ArgumentParser, arguments: Sequence[str]) -> PreparedData:
    """Open the data of all runs; raw files are prepared into the cache, once.

    Raises:
        DataError: The data cannot be read, or there are neither test nor validation rows.
    """
    options = instantiated(parser, parse_recipe(parser, arguments)).data
    with Counter() as counter:
        data = open_data(options, counter)
        counter.remark(*data.notes)
    if not {"test", "valid"} & set(data.splits):
        raise DataError("there are neither test nor validation rows to compare on: give `--data.test`")
    return data
