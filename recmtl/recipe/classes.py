"""The classes that an option or a key of a recipe can name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import isabstract
from types import ModuleType
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser

from recmtl import balance, callbacks, features, layers, models
from recmtl.balance import Balancer
from recmtl.callbacks import Callback
from recmtl.did_you_mean import did_you_mean
from recmtl.errors import UsageError
from recmtl.features import NumericEmbedding
from recmtl.io.import_paths import imported
from recmtl.layers import Interaction
from recmtl.models import RankingModel
from recmtl.recipe.option_types import alternatives, named_class, placeholder

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}  # of a mapping that names a class
PLACES: dict[str, tuple[ModuleType, type]] = {
    "model": (models, RankingModel),
    "model.encoder.numeric": (features, NumericEmbedding),
    "model.encoder.interaction": (layers, Interaction),
    "balancer": (balance, Balancer),
    "trainer.callbacks": (callbacks, Callback),
}


def known_names(key: str) -> list[str]:
    """Return the names of recmtl's classes that a key can name; an empty list if it has no list of them."""
    if key not in PLACES:
        return []
    package, base = PLACES[key]
    classes = [getattr(package, name) for name in package.__all__]
    found = [c for c in classes if isinstance(c, type) and issubclass(c, base) and not isabstract(c)]
    found = [c for c in found if c is not base]
    return sorted(c.__name__ for c in found)


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


def _subclasses(base: type) -> Iterator[type]:
    for cls in list[type](type.__subclasses__(base)):
        yield cls
        yield from _subclasses(cls)
