"""Write a trainer that was made in Python as a run folder, with a recipe that says how its parts are built."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import yaml
from torch import nn

from recmtl.balance.constructor_checks import constructor_options
from recmtl.callbacks import FitResult
from recmtl.errors import RunError
from recmtl.io.import_paths import path_of
from recmtl.runs.folder import OPTIMIZERS, RunFolder
from recmtl.train.setup import TrainingSetup

ADVICE = "give a class or function of a module that can be imported, or `functools.partial` of a class"


def save_run(setup: TrainingSetup, result: FitResult, recipe: str | None, path: str | Path) -> None:
    """Write model, balancer and optimizers as a finished run.

    Args:
        setup: The setup of the trainer.
        result: The result of its last fit.
        recipe: The recipe by which it was built; ``None`` describes how its parts were made in Python.
        path: The run folder to write.

    Raises:
        RunError: An argument of a part cannot be written down, or the folder holds something.
    """
    text = python_recipe(setup) if recipe is None else recipe
    folder, model = RunFolder(path), setup.model
    with folder.held():
        folder.check_free()
        folder.begin(text)
        folder.create(model.schema, setup.start.record() if setup.start else None)
        folder.save_best({"fingerprint": model.schema.fingerprint, "epoch": 0, "model": model.state_dict()})
        states = _optimizer_states(setup, result)
        if states:
            folder.save_optimizers(states)
        if model.calibration is not None:
            model.calibration.save(folder)
        folder.finish({"best": {"monitor": setup.metric_monitor().monitor, "value": result.best}})


def _optimizer_states(setup: TrainingSetup, result: FitResult) -> dict[str, Any]:
    if setup.folder and setup.folder.checkpoint(OPTIMIZERS).exists():
        return setup.folder.load_checkpoint(OPTIMIZERS)
    return dict(result.optimizers)


def python_recipe(setup: TrainingSetup) -> str:
    """Return the recipe of a trainer, as YAML, from the arguments of its parts' constructors."""
    optimization, run = vars(setup.optimization), vars(setup.run) | {"folder": None}
    trainer: dict[str, Any] = {
        "epochs": setup.epochs,
        "gradient_stats_every": setup.gradient_stats_every,
        "balance_domains": setup.balance_domains,
        "calibration": plain(setup.calibration, "calibration"),
        "shard_tables": setup.shard_tables,
        "optimization": {name: plain(value, f"optimization.{name}") for name, value in optimization.items()},
        "stopping": {name: plain(value, f"stopping.{name}") for name, value in vars(setup.stopping).items()},
        "run": {name: plain(value, f"run.{name}") for name, value in run.items()},
    }
    content = {
        "data": {},
        "model": _part(setup.model, setup.model.constructor_arguments, "model"),
        "balancer": _part(setup.balancer, constructor_options(setup.balancer), "balancer"),
        "trainer": trainer,
    }
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _part(module: nn.Module, arguments: Mapping[str, Any], where: str) -> dict[str, Any]:
    options = {name: plain(value, f"{where}.{name}") for name, value in arguments.items()}
    return {"class_path": import_path(type(module), where)} | ({"init_args": options} if options else {})


def plain(value: Any, where: str) -> Any:
    """Return a value as plain data: classes, functions and partials of them by their import paths.

    Args:
        value: An argument of a constructor.
        where: Its name, for errors.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [plain(item, where) for item in value]
    if isinstance(value, Mapping):
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, partial) and isinstance(value.func, type) and not value.args:
        options = {name: plain(item, f"{where}.{name}") for name, item in value.keywords.items()}
        return {"class_path": import_path(value.func, where), "init_args": options}
    if isinstance(value, type):
        return {"class_path": import_path(value, where)}
    if isinstance(value, FunctionType):
        return import_path(value, where)
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    raise RunError(f"a recipe cannot say what `{where}` is, {str(value)[:60]!r}: {ADVICE}")


def import_path(found: Any, where: str) -> str:
    """Return the import path of a class or function."""
    module, name = getattr(found, "__module__", None), getattr(found, "__qualname__", "")
    if module in (None, "__main__") or not name.isidentifier() or not hasattr(inspect.getmodule(found), name):
        what = "a lambda or of a function" if "<" in name else f"of {module!r}" if name else "no class or function"
        raise RunError(f"a recipe cannot name `{where}`, which is {what}: {ADVICE}")
    return path_of(found)
