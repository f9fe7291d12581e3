"""The classes that an option or a key of a recipe can name."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from types import ModuleType
from typing import Any

from jsonargparse import ArgumentParser

from recmtl import balance, features, models
from recmtl.balance import Balancer
from recmtl.errors import UsageError, did_you_mean
from recmtl.features import NumericEmbedding
from recmtl.models import RankingModel
from recmtl.recipe.option_types import built_from, named_class, placeholder

CLASS_KEYS = {"class_path", "init_args", "dict_kwargs"}  # of a mapping that names a class


def known_names(key: str) -> list[str]:
    """Return the names of recmtl's classes that a key can name; an empty list if it has no list of them."""
    places: dict[str, tuple[ModuleType, type]] = {
        "model": (models, RankingModel),
        "model.encoder.numeric": (features, NumericEmbedding),
        "balancer": (balance, Balancer),
    }
    if key not in places:
        return []
    package, base = places[key]
    classes = [getattr(package, name) for name in package.__all__]
    return [c.__name__ for c in classes if isinstance(c, type) and issubclass(c, base) and not isabstract(c)]


def class_options(cls: type, key: str, kind: Any) -> ArgumentParser:
    """Build a parser of the options of a class: the arguments of its constructor, but for those that come later.

    Args:
        cls: The class.
        key: The key that names it.
        kind: The type of that key.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, key, skip={built_from(kind)} if built_from(kind) else None, instantiate=False)
    return parser


def find_class(name: str, key: str, kind: Any) -> Any:
    """Return the class (or the function) that a key names.

    Args:
        name: The bare name of a class, or an import path.
        key: The key.
        kind: The type of that key.

    Raises:
        UsageError: There is no such class, its module cannot be imported, or it has another base class.
    """
    base, what = named_class(kind) or object, placeholder(kind).lower()
    module, _, attribute = name.rpartition(".")
    if module:
        try:
            found = imported(module, attribute)
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


def imported(module: str, attribute: str) -> Any:
    """Import a class or function.

    Raises:
        UsageError: There is no such module, it cannot be imported, or it has no such attribute.
    """
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {error.name!r}, neither in the working directory {str(Path.cwd())!r} nor installed"
            ) from error
        raise UsageError(f"module {module!r} cannot be imported: {error}") from error
    except Exception as error:  # whatever a user's module raises
        raise UsageError(f"module {module!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(found, attribute):
        classes = [name for name, value in vars(found).items() if isinstance(value, type)]
        raise UsageError(f"module {module!r} has no class {attribute!r}{did_you_mean(attribute, classes)}")
    return getattr(found, attribute)


def _subclasses(base: type) -> Iterator[type]:
    for cls in list[type](type.__subclasses__(base)):
        yield cls
        yield from _subclasses(cls)
