"""Recipes: from options to data, model, balancer and trainer, and back to a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

from recmtl.errors import RunError, UsageError
from recmtl.features.torchrec_rows import check_installed
from recmtl.io.machine import explain_oom
from recmtl.io.processes import launched
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.models import RankingModel
from recmtl.models.domains import check_has_domain
from recmtl.recipe.classes import find_class, instance
from recmtl.recipe.data_options import DataOptions
from recmtl.recipe.environment import environment
from recmtl.recipe.options import ModelFactory
from recmtl.recipe.trust import check_losses
from recmtl.runs.folder import RECIPE, RunFolder
from recmtl.schema import FittedSchema, Schema
from recmtl.schema.serialization import schema_with_trust
from recmtl.train import EarlyStopping, Trainer
from recmtl.train.device import device_name, open_device
from recmtl.train.distributed import tables_to_train
from recmtl.train.setup import check_group, monitor_of

# Keys in which a run may differ from one with the same result (of `threads`, up to rounding; of `callbacks`, as far as
# none stops it: a run whose logger is out of reach can be resumed without it).
WITHOUT_EFFECT = {("data", "cache"), ("data", "workers"), ("trainer", "callbacks"), ("trainer", "shard_tables")} | {
    ("trainer", "run", key)
    for key in ("folder", "threads", "progress", "checkpoint_every", "checkpoint_minutes", "keep")
}


def build(parser: ArgumentParser, config: Namespace, schema: FittedSchema, objects: Namespace | None = None) -> Trainer:
    """Build model, balancer and trainer of a recipe, with first weights from its seed.

    `objects` are what `instantiate` returned for it, if it was called before.
    """
    objects = instantiate(parser, config) if objects is None else objects
    options = objects.trainer
    torch.manual_seed(options.run.seed)
    spread = tables_to_train(
        options.shard_tables,
        options.optimization.optimizer,
        lambda processes: open_device(device_name(options.run.device, processes)),
    )
    with explain_oom(f"the model {config.model.class_path}", "make its layers smaller"), spread:
        model = objects.model(schema)
    trainer = Trainer(model, objects.balancer, **vars(objects.trainer))
    trainer.recipe = partial(recipe_text, parser, config)
    return trainer


def check_recipes(recipes: Iterable[Namespace | Mapping[str, Any]], schema: Schema) -> None:
    """Check that models and trainers of recipes can have a schema, and that its own losses are functions.

    It is called as soon as the schema is known, before any row is prepared.

    A model of one's own may have objectives that the schema does not know: what it monitors is checked later.

    Raises:
        UsageError: One cannot, or needs TorchRec, which is not installed.
        RunError: A loss of one's own is not trusted, cannot be imported, or is no function.
    """
    for recipe in recipes:
        check_losses(schema)
        model, trainer = find_class(recipe["model"]["class_path"], "model", ModelFactory), recipe["trainer"]
        try:
            if isinstance(model, type) and issubclass(model, RankingModel):
                model.check_schema(schema)
            if trainer["balance_domains"]:
                check_has_domain("`balance_domains`", schema)
            stopping = EarlyStopping(**{key: trainer["stopping"][key] for key in ("monitor", "group", "metrics")})
            if model.__module__.startswith("recmtl."):
                monitor_of(stopping, schema, schema.reported_tasks)
            check_group(stopping.group, schema)
            if trainer["shard_tables"] == "torchrec" and launched() > 1:
                check_installed()
        except ValueError as error:
            raise UsageError(str(error)) from error


def check_to_train(config: Namespace, trust: Sequence[str] | None, schema: Schema) -> None:
    """Check a recipe to train as `check_recipes` does; losses of one's own must be of the modules in `trust`."""
    check_recipes([config], schema_with_trust(schema, trust))


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Instantiate the classes that options name; of the model, a factory that takes the schema.

    A class of one's own may open a file or a connection: call it once for each training, and `data_options` for the
    data alone.
    """
    torch.manual_seed(config.trainer.run.seed)
    try:
        made: Namespace = parser.instantiate(config, instantiators=[(instance, object, True)])
        return made
    except TypeError as error:  # the option parser accepted it
        raise ValueError(f"an option of the recipe has a value of the wrong type: {error}") from error


def data_options(config: Namespace) -> DataOptions:
    """Return the options of the data of a recipe; no class that it names is instantiated."""
    return DataOptions(**vars(config.data))


@contextmanager
def recipe_of_run(parser: ArgumentParser, config: Namespace, folder: RunFolder) -> Iterator[None]:
    """Write the recipe of a run that begins within a block, and remove it again if none has begun at the end."""
    try:
        folder.begin(recipe_text(parser, config))
        yield
    finally:
        folder.abandon()


def complete_recipe(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return all keys of a recipe as plain data, defaults included."""
    content = json.loads(parser.dump(config, "json", skip_unset=False, skip_validation=True))  # it was parsed
    return {key: content[key] for key in ("data", "model", "balancer", "trainer")}


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys in which two recipes differ and that can change a result, with both values."""
    for key in dict.fromkeys((*found, *wanted)):
        path, one, other = (*above, key), found.get(key), wanted.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from differences(one, other, path)
        elif one != other and path not in WITHOUT_EFFECT and (one or other or {} not in (one, other)):
            yield ".".join(path), one, other


def recipe_text(parser: ArgumentParser, config: Namespace) -> str:
    """Return the complete recipe of a run as YAML, with the environment as comments at its head."""
    content = complete_recipe(parser, config)
    head = "".join(f"# {line}\n" for line in environment(config.trainer.run.threads))
    return head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def read_recipe(run: RunFolder) -> Any:
    """Read the recipe of a run as plain data."""
    path = run.path / RECIPE
    try:
        return from_yaml(read_text(path))
    except OSError as error:
        raise RunError(run.no_run(f"there is no {RECIPE}")) from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
