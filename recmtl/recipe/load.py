"""Load and resume runs. Their recipes are untrusted: they are checked before anything is imported or built."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

from recmtl.data.store.cache import find_cached
from recmtl.errors import RunError
from recmtl.recipe.option_errors import given_keys
from recmtl.recipe.options import parse_recipe, recipe_parser, resolve_arguments
from recmtl.recipe.recipe import build, complete_recipe, differences, read_recipe
from recmtl.recipe.trust import check_links, check_trust
from recmtl.runs.folder import RECIPE, RunFolder
from recmtl.schema.serialization import with_trust
from recmtl.train import Trainer
from recmtl.train.device import GPU_PRECISIONS


def load_run(folder: str | Path, trust: str | Sequence[str] = ()) -> Trainer:
    """Build the trainer of a run and load its best weights.

    A run's recipe names layers, models, balancers and optimizers. Only those of recmtl and torch are imported, and
    those of modules in `trust`, which must be installed or lie in a folder of `sys.path`.

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
    recipe = without_vector_files(recipe)
    without_callbacks(recipe)
    check_trust(recipe, (trust,) if isinstance(trust, str) else tuple(trust), run.path / RECIPE)
    parser = recipe_parser("recmtl train")
    recipe["trainer"]["run"] |= {"folder": None, "progress": False, "device": None, "threads": None}
    recipe["trainer"]["init_from"] = None
    without_gpu_options(recipe)
    schema = with_trust(run.schema(), (trust,) if isinstance(trust, str) else trust)
    try:
        trainer = build(parser, parse_recipe(parser, ["--config", as_argument(recipe)]), schema)
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise RunError(f"{run.path / RECIPE} cannot be used: {' '.join(str(error).split())}") from error
    return trainer.load("best", run)


def resumed_recipe(
    parser: ArgumentParser, arguments: Sequence[str], folder: str | Path, trust: Sequence[str] = ()
) -> Namespace:
    """Return the recipe of a run to resume."""
    run = RunFolder(folder)
    begun = read_recipe(run)
    used = without_replaced(parser, begun, arguments)
    check_trust(without_vector_files(copy.deepcopy(used)), tuple(trust), run.path / RECIPE)
    check_links(run.path)
    begun["data"]["cache"] = used["data"]["cache"] = existing_cache(begun["data"].get("cache"))
    config = parse_recipe(parser, ["--config", as_argument(used), *arguments])
    for key, before, now in differences(begun, complete_recipe(parser, config)):
        raise RunError(f"{str(run.path)!r} was begun with `{key}` {before!r}, got {now!r}: leave the option out")
    return config


def as_argument(recipe: Any) -> str:
    """Return a checked recipe as text for `--config`: its file may have changed since."""
    return yaml.safe_dump(recipe, default_flow_style=True)


def existing_cache(cache: Any) -> str | None:
    """Return the cache that an untrusted recipe names if it exists: it must not choose where files are written."""
    return cache if isinstance(cache, str) and cache and find_cached(Path(cache)) else None


def without_gpu_options(recipe: Any) -> None:
    """Leave the options of a recipe that need a GPU if there is none, with a warning about the precision."""
    options = recipe["trainer"].get("optimization")
    if torch.cuda.is_available() or not isinstance(options, dict):
        return
    options["cuda_graph"] = None
    precision = options.get("precision")
    if precision in GPU_PRECISIONS:
        options["precision"] = "fp32"
        warnings.warn(f"the run was trained in {precision!r} on a GPU: predictions are computed in 'fp32'")


def without_replaced(parser: ArgumentParser, recipe: Any, arguments: Sequence[str]) -> Any:
    """Return a recipe without the callbacks and own metrics that arguments replace, which are not to be trusted."""
    given = set(given_keys(parser, [*resolve_arguments(arguments)]))
    found = copy.deepcopy(recipe)
    for key in given & {"trainer.callbacks", "trainer.stopping.metrics"}:
        *groups, last = key.split(".")
        place = found
        for group in groups:
            place = place.get(group) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place.pop(last, None)
    return found


def without_callbacks(recipe: Any) -> None:
    """Leave the callbacks of a recipe, which belong to its training."""
    if isinstance(recipe, dict) and isinstance(recipe.get("trainer"), dict):
        recipe["trainer"].pop("callbacks", None)


def without_vector_files(recipe: Any) -> Any:
    """Return a recipe without the files of pretrained vectors: the checkpoint has the weights."""
    options = recipe
    for key in ("model", "init_args", "encoder", "init_args"):
        options = options.get(key) if isinstance(options, dict) else None
    if isinstance(options, dict) and isinstance(options.get("pretrained"), dict):
        found = options["pretrained"].items()
        options["pretrained"] = {name: None if isinstance(file, str) else file for name, file in found}
    return recipe
