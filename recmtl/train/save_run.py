"""Write a trainer that was made in Python as a run folder, with a recipe that says how its parts are built."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import yaml
from torch import nn

from recmtl.balance import ProcessGroup
from recmtl.balance.constructor_checks import constructor_options
from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.callbacks import FitResult
from recmtl.errors import RunError
from recmtl.features.saved_tables import spread_weights, whole_weights
from recmtl.io.import_paths import path_of
from recmtl.runs.checkpoint_file import TABLES
from recmtl.runs.checkpoints import copy_folder, save_checkpoint
from recmtl.runs.folder import BEST, OPTIMIZERS, RunFolder
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
    model, tables = setup.model, spread_weights(setup.model)
    processes = setup.processes if tables else SINGLE_PROCESS
    folder = RunFolder(path) if processes.first else None
    with folder.held() if folder else nullcontext():
        if folder:
            folder.check_free()
            folder.begin(text)
            folder.create(model.schema, setup.start.record() if setup.start else None)
        state = {"fingerprint": model.schema.fingerprint, "epoch": 0, "model": whole_weights(model)}
        save_checkpoint(folder, BEST, state, tables, processes)
        _save_optimizers(setup, result, folder, processes)
        if folder:
            if model.calibration is not None:
                model.calibration.save(folder)
            folder.finish({"best": {"monitor": setup.metric_monitor().monitor, "value": result.best}})


def _save_optimizers(
    setup: TrainingSetup, result: FitResult, folder: RunFolder | None, processes: ProcessGroup
) -> None:
    """Write the states of the optimizers, if there are any: in the run folder of the trainer, or in memory."""
    own = setup.folder.checkpoint(OPTIMIZERS).parent if setup.folder else None
    if setup.run.folder:
        target = folder.checkpoint(OPTIMIZERS).parent if folder else None
        copy_folder(own if own and own.exists() else None, target, processes)
    elif result.optimizers:
        state = dict(result.optimizers)
        tables = state.pop(TABLES, {})
        save_checkpoint(folder, OPTIMIZERS, state, tables, processes)


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
