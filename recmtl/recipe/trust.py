"""What the recipe of a run may say, which may be a stranger's: plain options, and classes that are trusted."""

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
from recmtl.recipe.classes import imported

TRUSTED = ("recmtl", "torch.nn", "torch.optim")
BASES = (nn.Module, Optimizer)  # all that a recipe has built by name
SECTIONS = {"data", "model", "balancer", "trainer"}
GROUPS = {"optimization", "stopping", "run"}  # of the trainer's options
ENTRY = {"class_path", "init_args", "dict_kwargs"}  # the keys beside the name of a class
PLAIN = re.compile(r"\w*")
IMPORT = re.compile(r"[^\W_]\w*(\.[^\W_]\w*)+")  # nothing private: `recmtl.__main__` runs when it is imported


def check_trust(recipe: Any, trust: Sequence[str], path: Path) -> None:
    """Refuse a recipe that could import or call anything but classes of recmtl, torch and what is trusted.

    Args:
        recipe: The recipe as plain data, which is to be parsed as it is.
        trust: Modules whose classes and functions it may name, beside the layers and optimizers of recmtl and torch.
        path: Its file, for the error.

    Raises:
        RunError: It names something else to import, or a file in place of options, or it is not a recipe.
    """
    if not _is_recipe(recipe):
        raise RunError(f"{path} is not the recipe of a run")
    for text in strings([recipe["model"], recipe["balancer"], recipe["trainer"]["optimization"]]):
        if PLAIN.fullmatch(text):
            if os.path.exists(text) and not os.path.isdir(text):  # a file of options, which nobody has checked
                raise RunError(f"{path} names {text!r}, which is also a file here: call recmtl from another folder")
        elif not IMPORT.fullmatch(text) or not _within(text, (*TRUSTED, *trust)):
            raise UntrustedError(path, text)
        elif not is_trusted_class(text, trust, path):
            raise RunError(f"{path} names {text!r}, which is no layer, model, balancer or optimizer")


def check_links(folder: Path) -> None:
    """Refuse a folder that is to be written to and leads elsewhere.

    Raises:
        RunError: It holds a link.
    """
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise RunError(f"{path} is a link: a run goes on in a folder of files and folders of its own")


def modules(recipe: Mapping[str, Any]) -> list[str]:
    """Give the modules of what a recipe names to be imported, where it is named and where it is defined."""
    parts = [recipe["model"], recipe["balancer"], recipe["trainer"]["optimization"]]
    names = [text for text in strings(parts) if IMPORT.fullmatch(text)]
    found = [getattr(locate(name), "__module__", None) for name in names]
    return sorted({*(name.rpartition(".")[0] for name in names), *filter(None, found)})


def to_be_trusted(recipe: Mapping[str, Any]) -> list[str]:
    """Give the modules that a recipe needs trust in."""
    return [name for name in modules(recipe) if not _within(name, TRUSTED) and not _within(name, ("torch",))]


def _is_recipe(recipe: Any) -> bool:
    """Whether a recipe has the sections of one, no other, and options where it must have no classes."""
    if not (isinstance(recipe, dict) and set(recipe) == SECTIONS and all(isinstance(v, dict) for v in recipe.values())):
        return False
    trainer = recipe["trainer"]
    if not all(isinstance(trainer.get(group), dict) for group in GROUPS):
        return False
    plain = [recipe["data"], trainer["stopping"], trainer["run"], {k: v for k, v in trainer.items() if k not in GROUPS}]
    if any(ENTRY & set(part) or any(isinstance(v, dict | list) for v in part.values()) for part in plain):
        return False
    named = (e for e in entries([recipe["model"], recipe["balancer"], trainer["optimization"]]) if ENTRY & set(e))
    return all(set(entry) <= ENTRY for entry in named)


def is_trusted_class(name: str, trust: Sequence[str], path: Path) -> bool:
    """Whether a name is that of a layer or optimizer of recmtl or torch, or of what a trusted module defines.

    Args:
        name: The import path, of a module that is trusted.
        trust: The modules beside recmtl and torch.
        path: The file that names it, for the error.

    Raises:
        RunError: A module that the user trusts cannot be imported, or does not have it.
    """
    module, _, attribute = name.rpartition(".")
    try:
        found = imported(module, attribute)
    except UsageError as error:
        if _within(name, trust):
            raise RunError(f"{path} names {name!r}: {error}") from error
        return False  # a module's imports, such as `recmtl.cli.main.sys`, are no modules within it
    if not (isinstance(found, type) or isfunction(found)):
        return False
    kind = isinstance(found, type) and issubclass(found, BASES)
    return _within(found.__module__, trust) or (kind and _within(found.__module__, TRUSTED))


def _within(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def entries(value: Any) -> Iterator[dict[Any, Any]]:
    """Walk all mappings of nested data."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from entries(item)


def strings(value: Any) -> Iterator[str]:
    """Walk all strings of nested data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)
