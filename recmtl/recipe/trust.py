"""Checks of the untrusted recipe of a run: it may hold plain options, and name classes that are trusted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from inspect import isfunction
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from recmtl.callbacks import Callback
from recmtl.errors import RunError, UntrustedError, UsageError
from recmtl.io.import_paths import imported, is_import_path, is_within
from recmtl.io.untrusted import from_yaml
from recmtl.models.own_loss import OwnLoss
from recmtl.recipe.classes import CLASS_KEYS
from recmtl.recipe.presets import card
from recmtl.schema import FittedSchema, Schema
from recmtl.schema.serialization import with_trust

TRUSTED = ("recmtl", "torch.nn", "torch.optim")
BASES = (nn.Module, Optimizer, Callback)  # of the classes that a recipe names
SECTIONS = {"data", "model", "balancer", "trainer"}
TRAINER_GROUPS = {"optimization", "stopping", "run"}  # of the trainer's options
LISTS = ("labels", "funnel", "drop", "header", "nulls", "negative_labels", "thinned")  # of the data
MAPPINGS = ("kinds", "date_formats")
PLAIN_WORD = re.compile(r"\w*")


def check_trust(recipe: Any, trust: Sequence[str], path: Path) -> None:
    """Check that a recipe imports and calls nothing but classes of recmtl and torch and what trusted modules define.

    It must be the plain data that will be parsed, not read again from its file, which is named in messages alone.
    """
    if not _is_recipe(recipe):
        raise RunError(f"{path} is not the recipe of a run")
    for text in _texts(recipe):
        if PLAIN_WORD.fullmatch(text):
            if os.path.exists(text) and not os.path.isdir(text):  # the parser would read options from it
                raise RunError(f"{path} names {text!r}, which is also a file here: call recmtl from another folder")
        elif not _is_public_path(text):
            raise RunError(f"{path} names {text!r}, which is no import path of a class")
        elif not is_within(text, (*TRUSTED, *trust)):
            raise UntrustedError(path, text)
        elif not is_trusted_class(text, trust, path):
            raise RunError(f"{path} names {text!r}, which is no layer, model, balancer, optimizer, callback or metric")


def trusted_metrics(recipe: str, trust: Sequence[str], path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Return the own metrics that the text of a recipe names, and a note on those of modules that are not trusted.

    Args:
        recipe: The recipe, of a run or of a baseline.
        trust: Modules that are trusted.
        path: Its file, for messages.
    """
    try:
        content = from_yaml(recipe)
        options = content["trainer"]["stopping"] if "trainer" in content else content
        given = options.get("metrics", {})
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}, []
    if not given or not is_metrics_option(given):
        return {}, []
    named = sorted({name for names in given.values() for name in names})
    trusted = {name for name in named if is_within(name, trust) and is_trusted_class(name, trust, path)}
    found = {key: [name for name in names if name in trusted] for key, names in given.items()}
    left = [name for name in named if name not in trusted]
    if not left:
        return found, []
    module = left[0].rpartition(".")[0]
    text = f"{path} names the metrics {', '.join(left)}, which are left out: if you trust their code, trust {module!r}"
    return found, [text]


def check_links(folder: Path) -> None:
    """Check that a folder to be written to holds no links, which may lead elsewhere."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise RunError(f"{path} is a link: a run is resumed only in a folder without links")


def named_modules(recipe: Mapping[str, Any]) -> list[str]:
    """Return the modules of the classes that a recipe names, of their definitions, and of the losses on its card."""
    names = [text for text in _texts(recipe) if _is_public_path(text)]
    found = [_defining_module(name) for name in names]
    return sorted({*(name.rpartition(".")[0] for name in (*names, *_own_losses(recipe))), *filter(None, found)})


def _defining_module(name: str) -> str | None:
    """Return the module in which the class or function of an import path is defined, if there is one."""
    try:
        return getattr(imported(name), "__module__", None)
    except UsageError:
        return None


def _own_losses(recipe: Mapping[str, Any]) -> list[str]:
    """Return the import paths of losses on the card that a recipe names, if it can be read."""
    try:
        return [task.loss_name for task in card(recipe["data"]["card"]).tasks if task.own_loss]
    except (KeyError, TypeError, ValueError, OSError):
        return []


def schema_to_train(schema: FittedSchema, trust: Sequence[str] | None) -> FittedSchema:
    """Return a schema with the losses of one's own imported, which must be of modules in `trust`.

    Args:
        schema: The schema.
        trust: The modules; ``None`` trusts all that the schema names.

    Raises:
        RunError: As of `check_losses`.
    """
    found = with_trust(schema, trust)
    check_losses(found.schema)
    return found


def check_losses(schema: Schema) -> None:
    """Import the losses of one's own.

    Raises:
        RunError: A loss is not trusted, cannot be imported, or is no function.
    """
    for task in schema.tasks:
        if task.own_loss:
            _ = OwnLoss(task).function


def modules_to_trust(recipe: Mapping[str, Any]) -> list[str]:
    """Return the modules that must be trusted to load a run of a recipe."""
    return [name for name in named_modules(recipe) if not is_within(name, TRUSTED) and not is_within(name, ("torch",))]


def _is_recipe(recipe: Any) -> bool:
    """Whether plain data has the sections of a recipe and no others, and names classes only where a recipe may."""
    if not (isinstance(recipe, dict) and set(recipe) == SECTIONS and all(isinstance(v, dict) for v in recipe.values())):
        return False
    trainer = recipe["trainer"]
    if not all(isinstance(trainer.get(group), dict) for group in TRAINER_GROUPS):
        return False
    if not all(is_data_option(name, value) for name, value in recipe["data"].items()):
        return False
    if not all(is_callback(entry) for entry in callbacks_of(recipe)):
        return False
    if not is_metrics_option(trainer["stopping"].get("metrics", {})):
        return False
    plain = [
        {k: v for k, v in trainer["stopping"].items() if k != "metrics"},
        trainer["run"],
        {k: v for k, v in trainer.items() if k not in (*TRAINER_GROUPS, "callbacks", "calibration")},
    ]
    methods = trainer.get("calibration")
    if not all(isinstance(v, str | None) for v in (methods.values() if isinstance(methods, dict) else [methods])):
        return False
    if any(CLASS_KEYS & set(part) or any(isinstance(v, dict | list) for v in part.values()) for part in plain):
        return False
    entries = values_in([recipe["model"], recipe["balancer"], trainer["optimization"]])
    return all(set(entry) <= CLASS_KEYS for entry in entries if isinstance(entry, dict) and CLASS_KEYS & set(entry))


def is_metrics_option(metrics: Any) -> bool:
    """Whether a value may be that of the option on own metrics: lists of text by text."""
    lists = list(metrics.values()) if isinstance(metrics, dict) and not CLASS_KEYS & set(metrics) else [metrics]
    return all(isinstance(found, list) and all(isinstance(item, str) for item in found) for found in lists)


def callbacks_of(recipe: Mapping[str, Any]) -> list[Any]:
    """Return the entries of the callbacks in a recipe; what is no list of them is one entry."""
    found = recipe["trainer"].get("callbacks", [])
    return found if isinstance(found, list) else [found]


def is_callback(entry: Any) -> bool:
    """Whether an entry names a class, with plain values as its options."""
    if not (isinstance(entry, dict) and set(entry) <= {"class_path", "init_args"}):
        return False
    name, options = entry.get("class_path"), entry.get("init_args", {})
    plain = isinstance(options, dict) and all(isinstance(v, str | float | int | None) for v in options.values())
    return isinstance(name, str) and plain


def is_data_option(name: str, value: Any) -> bool:
    """Whether a value may be that of a data option: text, a number, a list of text, or what is said of columns."""
    if name in LISTS:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if name in MAPPINGS:
        return isinstance(value, dict) and all(isinstance(part, str) for part in (*value, *value.values()))
    return isinstance(value, str | float | int | None)


def is_trusted_class(name: str, trust: Sequence[str], path: Path) -> bool:
    """Whether an import path is a layer's or optimizer's of recmtl or torch, or of what a trusted module defines."""
    try:
        found = imported(name)
    except UsageError as error:
        if is_within(name, trust):
            raise RunError(f"{path} names {name!r}: {error}") from error
        return False  # such as `recmtl.cli.main.sys.exit`: what a module imports is no module within it
    if not (isinstance(found, type) or isfunction(found)):
        return False
    kind = isinstance(found, type) and issubclass(found, BASES)
    return is_within(found.__module__, trust) or (kind and is_within(found.__module__, TRUSTED))


def _is_public_path(text: str) -> bool:
    """Whether a text is an import path without private modules: `recmtl.__main__` runs when it is imported."""
    return is_import_path(text) and "._" not in f".{text}"


def _texts(recipe: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts of a recipe that may name classes."""
    parts = [recipe["model"], recipe["balancer"], recipe["trainer"]["optimization"]]
    parts.append(recipe["trainer"]["stopping"].get("metrics", {}))
    for entry in callbacks_of(recipe):
        parts.append(entry["class_path"])
        if not is_within(entry["class_path"], ("recmtl",)):  # the options of recmtl's callbacks are plain text
            parts += [value for value in entry.get("init_args", {}).values() if _may_name(value)]
    return (value for value in values_in(parts) if isinstance(value, str))


def _may_name(value: Any) -> bool:
    """Whether an option of a callback may be the name of a class, or a file that the parser would read."""
    return isinstance(value, str) and (_is_public_path(value) or os.path.exists(value))


def values_in(value: Any) -> Iterator[Any]:
    """Yield a value and all values that it holds, but for keys."""
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from values_in(item)
