"""Checks of the untrusted recipe of a run: it may hold plain options, and name classes that are trusted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from inspect import isfunction
from pathlib import Path
from pydoc import locate
from typing import Any

from torch import nn
from torch.optim import Optimizer

from recmtl.errors import RunError, UntrustedError, UsageError
from recmtl.recipe.classes import CLASS_KEYS, imported

TRUSTED = ("recmtl", "torch.nn", "torch.optim")
BASES = (nn.Module, Optimizer)  # of the classes that a recipe names
SECTIONS = {"data", "model", "balancer", "trainer"}
TRAINER_GROUPS = {"optimization", "stopping", "run"}  # of the trainer's options
PLAIN_WORD = re.compile(r"\w*")
IMPORT_PATH = re.compile(r"[^\W_]\w*(\.[^\W_]\w*)+")  # no private module: `recmtl.__main__` runs when imported


def check_trust(recipe: Any, trust: Sequence[str], path: Path) -> None:
    """Check that a recipe imports and calls nothing but classes of recmtl and torch and what trusted modules define.

    Args:
        recipe: The recipe as plain data, exactly as it will be parsed.
        trust: Modules whose classes and functions it may name, beside the layers and optimizers of recmtl and torch.
        path: The file of the recipe, for messages.

    Raises:
        UntrustedError: The recipe names a class of another module.
        RunError: It names a file in place of options, or something that is no such class; or it is not a recipe.
    """
    if not _is_recipe(recipe):
        raise RunError(f"{path} is not the recipe of a run")
    for text in strings_in([recipe["model"], recipe["balancer"], recipe["trainer"]["optimization"]]):
        if PLAIN_WORD.fullmatch(text):
            if os.path.exists(text) and not os.path.isdir(text):  # the parser would read options from it
                raise RunError(f"{path} names {text!r}, which is also a file here: call recmtl from another folder")
        elif not IMPORT_PATH.fullmatch(text):
            raise RunError(f"{path} names {text!r}, which is no import path of a class")
        elif not _within(text, (*TRUSTED, *trust)):
            raise UntrustedError(path, text)
        elif not is_trusted_class(text, trust, path):
            raise RunError(f"{path} names {text!r}, which is no layer, model, balancer or optimizer")


def check_links(folder: Path) -> None:
    """Check that a folder to be written to holds no links, which may lead elsewhere.

    Raises:
        RunError: It holds one.
    """
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise RunError(f"{path} is a link: a run is resumed only in a folder without links")


def named_modules(recipe: Mapping[str, Any]) -> list[str]:
    """Return the modules of the classes that a recipe names: of their import paths and of their definitions."""
    parts = [recipe["model"], recipe["balancer"], recipe["trainer"]["optimization"]]
    names = [text for text in strings_in(parts) if IMPORT_PATH.fullmatch(text)]
    found = [getattr(locate(name), "__module__", None) for name in names]
    return sorted({*(name.rpartition(".")[0] for name in names), *filter(None, found)})


def modules_to_trust(recipe: Mapping[str, Any]) -> list[str]:
    """Return the modules that must be trusted to load a run of a recipe."""
    return [name for name in named_modules(recipe) if not _within(name, TRUSTED) and not _within(name, ("torch",))]


def _is_recipe(recipe: Any) -> bool:
    """Whether plain data has the sections of a recipe and no others, and names classes only where a recipe may."""
    if not (isinstance(recipe, dict) and set(recipe) == SECTIONS and all(isinstance(v, dict) for v in recipe.values())):
        return False
    trainer = recipe["trainer"]
    if not all(isinstance(trainer.get(group), dict) for group in TRAINER_GROUPS):
        return False
    plain = [
        recipe["data"],
        trainer["stopping"],
        trainer["run"],
        {k: v for k, v in trainer.items() if k not in TRAINER_GROUPS},
    ]
    if any(CLASS_KEYS & set(part) or any(isinstance(v, dict | list) for v in part.values()) for part in plain):
        return False
    entries = mappings_in([recipe["model"], recipe["balancer"], trainer["optimization"]])
    return all(set(entry) <= CLASS_KEYS for entry in entries if CLASS_KEYS & set(entry))


def is_trusted_class(name: str, trust: Sequence[str], path: Path) -> bool:
    """Whether an import path is that of a layer or optimizer of recmtl or torch, or of what a trusted module defines.

    Args:
        name: The import path, within a trusted module.
        trust: The trusted modules beside recmtl and torch.
        path: The file that names it, for messages.

    Raises:
        RunError: A module in `trust` cannot be imported, or lacks the class.
    """
    module, _, attribute = name.rpartition(".")
    try:
        found = imported(module, attribute)
    except UsageError as error:
        if _within(name, trust):
            raise RunError(f"{path} names {name!r}: {error}") from error
        return False  # such as `recmtl.cli.main.sys.exit`: what a module imports is no module within it
    if not (isinstance(found, type) or isfunction(found)):
        return False
    kind = isinstance(found, type) and issubclass(found, BASES)
    return _within(found.__module__, trust) or (kind and _within(found.__module__, TRUSTED))


def _within(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def mappings_in(value: Any) -> Iterator[dict[Any, Any]]:
    """Yield all mappings in nested data."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from mappings_in(item)


def strings_in(value: Any) -> Iterator[str]:
    """Yield all strings in nested data, but for keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)
