"""Recipes: from options to data, model, balancer and trainer, and back to a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

from recmtl.errors import RunError
from recmtl.io.machine import explain_oom
from recmtl.io.untrusted import from_yaml, read_text
from recmtl.recipe.environment import environment
from recmtl.runs.folder import RECIPE, RunFolder
from recmtl.schema import FittedSchema
from recmtl.train import Trainer
from recmtl.train.device import device_name, open_device
from recmtl.train.distributed import tables_to_train

# Keys in which a run may differ from one with the same result (of `threads`, up to rounding; of `callbacks`, as far as
# none stops it: a run whose logger is out of reach can be resumed without it).
WITHOUT_EFFECT = {("data", "cache"), ("trainer", "callbacks"), ("trainer", "shard_tables")} | {
    ("trainer", "run", key)
    for key in ("folder", "threads", "progress", "checkpoint_every", "checkpoint_minutes", "keep")
}


def build(parser: ArgumentParser, config: Namespace, schema: FittedSchema) -> Trainer:
    """Build model, balancer and trainer of a recipe, with first weights from its seed."""
    torch.manual_seed(config.trainer.run.seed)
    objects = instantiate(parser, config)
    options = objects.trainer
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


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Instantiate the classes that options name; of the model, a factory that takes the schema."""
    try:
        made: Namespace = parser.instantiate(config)
        return made
    except TypeError as error:  # the option parser accepted it
        raise ValueError(f"an option of the recipe has a value of the wrong type: {error}") from error


@contextmanager
def recipe_of_run(parser: ArgumentParser, config: Namespace, folder: RunFolder) -> Iterator[None]:
    """Write the recipe of a run that begins within a block, and remove it again if none has begun at the end."""
    folder.begin(recipe_text(parser, config))
    try:
        yield
    finally:
        folder.abandon()


def complete_recipe(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return all keys of a recipe as plain data, defaults included."""
    content = yaml.safe_load(parser.dump(config, skip_unset=False))
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
