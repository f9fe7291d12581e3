"""What a recipe may hold, checked before anything is made of it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc import locate
from typing import Any

import yaml
from jsonargparse import Namespace

GROUPS = ("data", "trainer", "trainer.optimization", "trainer.stopping", "trainer.run")  # keys that hold others
MOST = 100_000  # values, those that aliases repeat counted each time


def check_text(path: Path) -> None:
    """Check that a file can be a recipe: a mapping of text, numbers, lists and mappings.

    Raises:
        ValueError: It cannot.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is not a recipe: it is nested too deeply") from None
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is not a recipe in YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a recipe: expected keys such as `data` and `model`")
    for number, value in enumerate(values(content)):
        if number == MOST:
            raise ValueError(f"{path} is not a recipe: it holds more than {MOST:,} values")
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"{path} is not a recipe: {value[:40]!r} has a NUL character")
    for group in GROUPS:
        above, _, key = group.rpartition(".")
        place = content.get(above, {}) if above else content
        if key in place and not isinstance(place[key], dict):
            raise ValueError(f"{path}: `{group}` must be a mapping, got {str(place[key])[:40]!r}")


def values(content: Any) -> Iterator[Any]:
    """Walk all keys and values of nested data."""
    waiting = [content]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def check_nulls(config: Namespace, classes: Mapping[str, type]) -> None:
    """Check that only options that can be left open are null, which the option parser takes for any.

    Args:
        config: The options.
        classes: By key, whose constructor takes what lies below; others are named by a `class_path`.

    Raises:
        ValueError: Another one is.
    """
    for key, value in config.as_flat()._get_kwargs():
        place, _, name = key.rpartition(".")
        if value is None and name and place:
            named = place.removesuffix(".init_args")
            made = classes.get(place) or locate(str(config.get(f"{named}.class_path")))
            option = inspect.signature(made).parameters.get(name) if callable(made) else None
            if option and option.default is not None and "None" not in str(option.annotation):
                raise ValueError(f"`{named}.{name}` must not be null")
