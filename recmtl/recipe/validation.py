"""Checks of a recipe before anything is built from it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from pydoc import locate

from jsonargparse import Namespace

from recmtl.io.untrusted import from_yaml, read_text

MAPPING_KEYS = ("data", "trainer", "trainer.optimization", "trainer.stopping", "trainer.run")


def check_text(path: Path) -> None:
    """Check that a file is a mapping of text, numbers, lists and mappings, with mappings for the groups of options.

    Raises:
        ValueError: It is not.
    """
    try:
        content = from_yaml(read_text(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a recipe: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a recipe: expected keys such as `data` and `model`")
    for group in MAPPING_KEYS:
        above, _, key = group.rpartition(".")
        place = content.get(above, {}) if above else content
        if key in place and not isinstance(place[key], dict):
            raise ValueError(f"{path}: `{group}` must be a mapping, got {str(place[key])[:40]!r}")


def check_nulls(config: Namespace, classes: Mapping[str, type]) -> None:
    """Check that only optional options are null: the option parser accepts null for any.

    Args:
        config: The options.
        classes: The classes that take the options below a key; others are named by a `class_path`.

    Raises:
        ValueError: An option is null that must not be.
    """
    for key, value in config.as_flat()._get_kwargs():
        place, _, name = key.rpartition(".")
        if value is None and name and place:
            named = place.removesuffix(".init_args")
            made = classes.get(place) or locate(str(config.get(f"{named}.class_path")))
            option = inspect.signature(made).parameters.get(name) if callable(made) else None
            if option and option.default is not None and "None" not in str(option.annotation):
                raise ValueError(f"`{named}.{name}` must not be null")
