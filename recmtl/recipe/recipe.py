"""Recipes: a dataset, a model, a balancer and a trainer, from files and options to objects and back.

Constructor signatures and docstrings are the options, the help, the recipe keys and the checks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

from recmtl import balance, features, models
from recmtl.balance import Balancer
from recmtl.data import DataError, PreparedData
from recmtl.data.preparation.prepare import Progress
from recmtl.data.preparation.prepare_cached import prepare_cached
from recmtl.data.sources.bad_rows import BadRows
from recmtl.data.store.cache import find_cached
from recmtl.data.store.format import MANIFEST
from recmtl.features import NumericEmbedding
from recmtl.io.files import new_file
from recmtl.io.memory import explain_oom
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.models import RankingModel
from recmtl.recipe.environment import environment
from recmtl.recipe.presets import card, find_recipe
from recmtl.recipe.trust import check_links, check_trust
from recmtl.recipe.validation import check_nulls, check_text
from recmtl.runs.folder import RECIPE
from recmtl.schema import FittedSchema
from recmtl.train import EarlyStopping, Optimization, RunConfig, RunError, RunFolder, Trainer

START = ("--model", "MMOE", "--balancer", "Sum")  # where neither recipe nor options name any
# What may differ between a run and one with the same result.
FREE = {("data", "cache")} | {
    ("trainer", "run", key) for key in ("folder", "progress", "checkpoint_every", "checkpoint_minutes", "keep")
}


ModelFactory = Callable[[FittedSchema], RankingModel]


@dataclass(frozen=True)
class DataOptions:
    """Which rows, and what their columns mean.

    Args:
        card: A dataset card (YAML), or the bare name of a shipped one; not needed for a prepared dataset.
        train: Training rows: a CSV, Parquet or Arrow file, a glob, a folder of them, or a prepared dataset.
        valid: Validation rows; without them a share of the training groups is held out.
        test: Test rows, measured once at the end.
        holdout: The share of the training groups to hold out when there are no validation rows.
        cache: Where prepared datasets are kept; by default `recmtl` in the user's cache folder.
        bad_rows: What becomes of rows that do not parse: the first is an error, or all are left out and counted.
    """

    card: str | None = None
    train: str | None = None
    valid: str | None = None
    test: str | None = None
    holdout: float = 0.1
    cache: Path | None = None
    bad_rows: BadRows = "error"


# What is made of the keys below, beside what a `class_path` names.
MADE = {"data": DataOptions, "trainer": Trainer} | {
    f"trainer.{name}": kind
    for name, kind in {"optimization": Optimization, "stopping": EarlyStopping, "run": RunConfig}.items()
}


def recipe_parser(prog: str, description: str | None = None) -> ArgumentParser:
    """Build the parser of a command that takes a recipe, to be used by `parse_recipe`."""
    parser = ArgumentParser(prog=prog, exit_on_error=False, allow_abbrev=False, description=description)
    parser.add_argument("--config", action="config", help="A recipe (YAML), or the bare name of a shipped one.")
    add_recipe(parser)
    return parser


def parse_recipe(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse options, those of a recipe among them; what neither names starts as `START` says.

    Raises:
        ArgumentError: There is no such option.
        SchemaError: There is no such recipe.
        ValueError: A recipe holds what none can.
    """
    config = parser.parse_args([*START, *_resolved(arguments)])
    check_nulls(config, MADE)
    return config


def _resolved(arguments: Sequence[str]) -> Iterator[str]:
    """Replace the bare name of a shipped recipe after `--config` by its file."""
    named = False
    for argument in arguments:
        option, equals, recipe = argument.partition("=")
        if named:
            yield _file(argument)
        else:
            yield f"{option}={_file(recipe)}" if equals and option == "--config" else argument
        named = argument == "--config"


def _file(recipe: str) -> str:
    if recipe.startswith("{"):  # JSON, the recipe itself
        return recipe
    path = find_recipe(recipe)
    check_text(path)
    return str(path)


def add_recipe(parser: ArgumentParser) -> None:
    """Add the keys of a recipe to a parser.

    Model and balancer have no default: its options would be kept for another class.
    """
    parser.add_class_arguments(DataOptions, "data")
    parser.add_argument("--model", type=ModelFactory, help="The ranking model, by default MMOE.")
    parser.add_argument("--balancer", type=Balancer, help="Balances the shared gradient, by default Sum.")
    parser.add_class_arguments(Trainer, "trainer", skip={"model", "balancer"}, instantiate=False)


def known_names(key: str) -> list[str]:
    """Give the names of the shipped classes that a key can be; none where it does not name one of several."""
    places: dict[str, tuple[ModuleType, type]] = {
        "model": (models, RankingModel),
        "model.encoder.numeric": (features, NumericEmbedding),
        "balancer": (balance, Balancer),
    }
    if key not in places:
        return []
    package, base = places[key]
    classes = [getattr(package, name) for name in package.__all__]
    return [c.__name__ for c in classes if isinstance(c, type) and issubclass(c, base) and not isabstract(c)]


def open_data(options: DataOptions, progress: Progress = lambda what, rows: None) -> PreparedData:
    """Open the data of a recipe; raw files are prepared into the cache first.

    Raises:
        DataError: No training rows or no card are named, or the data cannot be read.
        SchemaError: The card cannot be used.
    """
    if options.train is None:
        raise DataError("no training rows are named: give `--data.train`")
    if (Path(options.train) / MANIFEST).is_file():
        if options.valid or options.test:
            raise DataError(f"{options.train!r} is a prepared dataset: it brings its own validation and test rows")
        return PreparedData.open(options.train)
    if options.card is None:
        raise DataError("no dataset card is named: give `--data.card`, a YAML file or a shipped name")
    schema = card(options.card)
    splits = (options.train, options.valid, options.test)
    return prepare_cached(schema, *splits, options.holdout, options.cache, progress, options.bad_rows)


def build(parser: ArgumentParser, config: Namespace, schema: FittedSchema) -> Trainer:
    """Build the trainer of a recipe, its model and its balancer; the seed decides the first weights.

    Raises:
        ValueError: An option is out of its range, or the model does not fit the schema.
    """
    torch.manual_seed(config.trainer.run.seed)
    objects = instantiated(parser, config)
    with explain_oom(f"the model {config.model.class_path}", "make its layers smaller"):
        model = objects.model(schema)
    return Trainer(model, objects.balancer, **vars(objects.trainer))


def instantiated(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Make the objects that options name; a model is made once the schema is known.

    Raises:
        ValueError: An option is out of its range, or its value is of another kind than it takes.
    """
    try:
        made: Namespace = parser.instantiate(config)
        return made
    except TypeError as error:  # what the option parser has let through
        raise ValueError(f"an option of the recipe has a value of another kind than it takes: {error}") from error


def complete_recipe(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Give every key of a recipe as plain data, also those that were left at their defaults."""
    content = yaml.safe_load(parser.dump(config, skip_unset=False))
    return {key: content[key] for key in ("data", "model", "balancer", "trainer")}


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any, Any]]:
    """Walk the keys in which two recipes differ, beside those that change no result."""
    for key in dict.fromkeys((*found, *wanted)):
        path, one, other = (*above, key), found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from differences(one, other, path)
        elif one != other and path not in FREE and (one or other or {} not in (one, other)):  # no options are none
            yield ".".join(path), one, other


def save_recipe(parser: ArgumentParser, config: Namespace, folder: Path) -> None:
    """Write a recipe from which the run can be repeated, and as comments what else its bits depend on."""
    content = complete_recipe(parser, config)
    with new_file(folder / RECIPE) as file:
        text = "".join(f"# {line}\n" for line in environment())
        file.write_text(text + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


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


def read_recipe(run: RunFolder) -> Any:
    """Read the recipe of a run as plain data.

    Raises:
        RunError: There is none, or it is damaged.
    """
    path = run.path / RECIPE
    try:
        return from_yaml(read_text(path))
    except OSError as error:
        raise RunError(f"{str(run.path)!r} is not a run: there is no {RECIPE}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error


def without_files(recipe: Any) -> Any:
    """Give a recipe without the files that the encoder's embeddings started from: a checkpoint brings the weights."""
    options = recipe
    for key in ("model", "init_args", "encoder", "init_args"):
        options = options.get(key) if isinstance(options, dict) else None
    if isinstance(options, dict) and isinstance(options.get("pretrained"), dict):
        found = options["pretrained"].items()
        options["pretrained"] = {name: None if isinstance(file, str) else file for name, file in found}
    return recipe
