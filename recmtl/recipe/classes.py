"""The classes that an option or a key of a recipe can name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from inspect import isabstract
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser

from recmtl.did_you_mean import did_you_mean
from recmtl.errors import LostRankError, ToldError, UsageError
from recmtl.io.import_paths import imported, is_within, path_of
from recmtl.io.machine import is_out_of_memory
from recmtl.recipe.option_types import alternatives, named_class, placeholder

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}  # of a mapping that names a class
# The package of the classes that a key can name, and their base; imported when a class is named.
PLACES = {
    "model": ("recmtl.models", "RankingModel"),
    "model.encoder.numeric": ("recmtl.features", "NumericEmbedding"),
    "model.encoder.interaction": ("recmtl.layers", "Interaction"),
    "balancer": ("recmtl.balance", "Balancer"),
    "trainer.callbacks": ("recmtl.callbacks", "Callback"),
}


def known_names(key: str) -> list[str]:
    """Return the names of recmtl's classes that a key can name; an empty list if it has no list of them."""
    if key not in PLACES:
        return []
    name, of_base = PLACES[key]
    package = import_module(name)
    base = getattr(package, of_base)
    classes = [getattr(package, name) for name in package.__all__]
    found = [c for c in classes if isinstance(c, type) and issubclass(c, base) and not isabstract(c)]
    found = [c for c in found if c is not base]
    return sorted(c.__name__ for c in found)


@cache
def class_options(cls: type, key: str, kind: Any) -> ArgumentParser:
    """Build a parser of a class's options: its constructor's arguments without those that the factory `kind` takes."""
    factories = [get_args(member)[0] for member in alternatives(kind) if get_origin(member) is Callable]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, key, skip={len(factories[0])} if factories else None, instantiate=False)
    return parser


def find_class(name: str, key: str, kind: Any) -> Any:
    """Return the class or function that a key of type `kind` names, by its bare name or import path."""
    base, what = named_class(kind) or object, placeholder(kind).lower()
    if "." in name:
        try:
            found = imported(name)
        except UsageError as error:
            raise UsageError(f"there is no {what} {name!r}: {error}") from error
    else:
        classes = {c.__name__: c for c in (base, *_subclasses(base)) if not isabstract(c)}
        if name not in classes:
            names = known_names(key)
            listed = f"one of {', '.join(names)}, or " if names else ""
            choices = f": give {listed}the import path of your own"
            raise UsageError(f"there is no {what} {name!r}{did_you_mean(name, names or classes) or choices}")
        found = classes[name]
    if isinstance(found, type) and not issubclass(found, base):
        raise UsageError(f"{name!r} is no {what}: it must be a subclass of {base.__name__}")
    return found


def instance(cls: type, *arguments: Any, **options: Any) -> Any:
    """Return an instance of a class that a recipe names; a `UsageError` names one of the user's own that raises."""
    try:
        return cls(*arguments, **options)
    except (KeyboardInterrupt, LostRankError, ToldError):
        raise
    except BaseException as error:  # whatever a class of the user's raises, also SystemExit
        if is_within(cls.__module__, ("recmtl", "torch")) or is_out_of_memory(error):
            raise
        raise UsageError(f"{path_of(cls)!r} cannot be instantiated: {type(error).__name__}: {error}") from error


def _subclasses(base: type) -> Iterator[type]:
    for cls in list[type](type.__subclasses__(base)):
        yield cls
        yield from _subclasses(cls)
