"""Train the model of a run on another day, by its recipe."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from recmtl.data import PreparedData, prepare
from recmtl.data.sources.open import Data
from recmtl.recipe.data import open_data
from recmtl.recipe.data_options import DataOptions
from recmtl.recipe.load import as_argument, existing_cache, without_replaced, without_vector_files
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.recipe import build, check_to_train, instantiate, read_recipe, recipe_of_run
from recmtl.recipe.trust import check_trust, schema_to_train
from recmtl.runs.folder import RECIPE, RunFolder
from recmtl.schema.extend import Statistics
from recmtl.train import Trainer

# The options of the data that are those of every day; the others say what is in its files, or what the columns mean.
EVERY_DAY = ("holdout", "bad_rows", "negative_rate", "negative_labels", "thinned", "statistics", "max_age")


def continue_run(
    run: str | Path,
    train: Data,
    valid: Data | None = None,
    test: Data | None = None,
    *,
    folder: str | Path,
    statistics: Statistics | None = None,
    max_age: int | None = None,
    allow_repeat: bool = False,
    options: Sequence[str] = (),
    trust: str | Sequence[str] = (),
    note: Callable[[str], None] = warnings.warn,
) -> Trainer:
    """Train the model of a finished run on the rows of another day, as `recmtl train --continue` does.

    The recipe is the run's. Vocabularies grow by the new categories, tables with them; weights, and the states of
    optimizer and balancer, are those at the end of the run. Before the first step the model predicts what it did.

    Args:
        run: The run folder.
        train: The training rows of the new day, in any form that `prepare` takes.
        valid: Its validation rows; without them a share of the training groups is held out, as by the recipe.
        test: Rows to measure at the end.
        folder: The run folder to write.
        statistics: As in `Extension`; ``None`` takes what the recipe says, ``keep`` at first.
        max_age: As in `Extension`; ``None`` takes what the recipe says, no limit at first.
        allow_repeat: As in `Extension`.
        options: Further options of the command, such as ``["--trainer.epochs", "1"]``.
        trust: Modules of your own whose classes the recipe names, as in `load_run`.
        note: Called with each finding about the rows, and each problem of the training.

    Returns:
        The trainer of the new run, with its best weights.

    Raises:
        DataError: A file cannot be read, or the run was trained on its rows already.
        SchemaError: The rows lack a column.
        RunError: The run is unfinished, damaged or not trusted, or the folder holds another run.
    """
    parser = recipe_parser("recmtl train")
    paths = {"train": train, "valid": valid, "test": test}
    files = {name: str(data) for name, data in paths.items() if isinstance(data, str | Path)}
    said: dict[str, Any] = {f"data.{name}": file for name, file in files.items()} | {"trainer.run.folder": str(folder)}
    said |= {} if statistics is None else {"data.statistics": statistics}
    said |= {} if max_age is None else {"data.max_age": max_age}
    said |= {"data.allow_repeat": True} if allow_repeat else {}
    arguments = [f"--{name}={value}" for name, value in said.items()]
    trusted = (trust,) if isinstance(trust, str) else tuple(trust)
    config = continued_recipe(parser, ["--trainer.run.progress=false", *arguments, *options], run, trusted)
    new = RunFolder(config.trainer.run.folder)
    with new.held():
        new.check_free()
        objects = instantiate(parser, config)
        in_files = all(isinstance(data, str | Path) for data in paths.values() if data is not None)
        check = partial(check_to_train, config, trusted)
        data = open_data(objects.data, check=check) if in_files else _prepared(objects.data, train, valid, test)
        for sentence in data.notes:
            note(sentence)
        trainer = build(parser, config, schema_to_train(data.schema, trusted), objects)
        if trainer.folder:
            trainer.setup = replace(trainer.setup, folder=new)
        with recipe_of_run(parser, config, new):
            trainer.fit(data.train, data.splits.get("valid"), note=note)
        trainer.finish({name: rows for name, rows in data.splits.items() if name != "train"})
    return trainer


def _prepared(options: DataOptions, train: Data, valid: Data | None, test: Data | None) -> PreparedData:
    """Prepare rows that are not all in files."""
    return prepare(
        None,
        train,
        valid,
        test,
        holdout=options.holdout,
        bad_rows=options.bad_rows,
        thinning=options.thinning,
        extend=options.extension,
    )


def continued_recipe(
    parser: ArgumentParser, arguments: Sequence[str], folder: str | Path, trust: Sequence[str] = ()
) -> Namespace:
    """Return the recipe of a run with the rows and options of another day.

    It names the run as the one whose schema and weights it goes on from, so that it can be resumed.
    """
    run = RunFolder(folder)
    found = without_replaced(parser, read_recipe(run), arguments)
    begun = without_vector_files(found)  # the checkpoint has the weights
    check_trust(begun, tuple(trust), run.path / RECIPE)
    kept = {name: begun["data"][name] for name in EVERY_DAY if name in begun["data"]}
    begun["data"] = kept | {"cache": existing_cache(begun["data"].get("cache")), "extend": str(run.path)}
    begun["trainer"] |= {"init_from": str(run.path), "balancer_state": "keep"}
    begun["trainer"]["run"]["folder"] = None
    config = parse_recipe(parser, ["--config", as_argument(begun), *arguments])
    config.data.thinned = [name for name in config.data.thinned if config.data[name] is not None or name == "train"]
    return config
