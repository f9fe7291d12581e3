"""Runs that are loaded or resumed: their recipes may be from anyone, and are checked before anything is built."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from recmtl.data.store.cache import find_cached
from recmtl.errors import RunError
from recmtl.recipe.options import add_recipe, parse_recipe
from recmtl.recipe.recipe import build, complete_recipe, differences, read_recipe
from recmtl.recipe.trust import check_links, check_trust
from recmtl.runs.folder import RECIPE, RunFolder
from recmtl.train import Trainer


def load_run(folder: str | Path, trust: Sequence[str] = ()) -> Trainer:
    """Build the trainer of a run and load its best weights.

    The run's recipe names layers, models and optimizers; only those of recmtl and torch are imported.

    Args:
        folder: The run folder.
        trust: Further modules whose classes the recipe may name.

    Raises:
        RunError: The folder is not a finished run, its recipe names a class that is not trusted, or its checkpoint
            does not fit.
    """
    run = RunFolder(folder)
    recipe = read_recipe(run)
    if not run.finished:
        raise RunError(f"{str(run.path)!r} holds an unfinished run")
    recipe = without_files(recipe)
    check_trust(recipe, tuple(trust), run.path / RECIPE)
    parser = ArgumentParser(exit_on_error=False)
    add_recipe(parser)
    recipe["trainer"]["run"] |= {"folder": None, "progress": False, "device": None}
    schema = run.schema()
    try:
        trainer = build(parser, parser.parse_object(recipe), schema)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise RunError(f"{run.path / RECIPE} cannot be used: {' '.join(str(error).split())}") from error
    return trainer.load("best", run)


def resumed_recipe(
    parser: ArgumentParser, arguments: Sequence[str], folder: str | Path, trust: Sequence[str] = ()
) -> Namespace:
    """Give the recipe of a run that is to go on.

    Args:
        parser: Of `recipe_parser`.
        arguments: Options, which must say what the recipe says.
        folder: The run folder.
        trust: Further modules whose classes the recipe may name.

    Raises:
        RunError: The folder holds no recipe or a link, the recipe names a class that is not trusted, or an option
            differs from it.
    """
    run = RunFolder(folder)
    begun = read_recipe(run)
    check_trust(without_files(copy.deepcopy(begun)), tuple(trust), run.path / RECIPE)  # vectors are data
    check_links(run.path)
    begun["data"]["cache"] = own_cache(begun["data"].get("cache"))
    checked = yaml.safe_dump(begun, default_flow_style=True)  # what was looked at, not the file again
    config = parse_recipe(parser, ["--config", checked, *arguments])
    for key, before, now in differences(begun, complete_recipe(parser, config)):
        raise RunError(f"{str(run.path)!r} was begun with `{key}` {before!r}, got {now!r}: leave the option out")
    return config


def own_cache(cache: Any) -> str | None:
    """Give the cache that a recipe names where it is one already: a stranger's says not where something is written."""
    return cache if isinstance(cache, str) and cache and find_cached(Path(cache)) else None


def without_files(recipe: Any) -> Any:
    """Give a recipe without the files that the encoder's embeddings started from: a checkpoint brings the weights."""
    options = recipe
    for key in ("model", "init_args", "encoder", "init_args"):
        options = options.get(key) if isinstance(options, dict) else None
    if isinstance(options, dict) and isinstance(options.get("pretrained"), dict):
        found = options["pretrained"].items()
        options["pretrained"] = {name: None if isinstance(file, str) else file for name, file in found}
    return recipe
