"""The dataset cards and recipes that come with recmtl, by their bare names."""

from __future__ import annotations

from pathlib import Path

from recmtl.did_you_mean import did_you_mean
from recmtl.errors import SchemaError
from recmtl.schema import Schema

PACKAGE = Path(__file__).parents[1]
# In a wheel they lie inside the package, in a checkout beside it.
ROOT = PACKAGE / "_shipped" if (PACKAGE / "_shipped").is_dir() else PACKAGE.parent


def card(name: str) -> Schema:
    """Read a dataset card: a file, or the bare name of a shipped one such as ``aliexpress``.

    Raises:
        SchemaError: There is no such card, or it is invalid.
    """
    return Schema.load(find_card(name))


def find_card(name: str) -> Path:
    """Find a dataset card: a file, or the bare name of a shipped one such as ``aliexpress``."""
    return _find(name, "data", "dataset card")


def find_recipe(name: str) -> Path:
    """Find a recipe: a file, or the bare name of a shipped one such as ``aliexpress_mmoe``."""
    return _find(name, "models", "recipe")


def _find(name: str, folder: str, what: str) -> Path:
    if Path(name).is_file():
        return Path(name)
    shipped = {path.stem: path for path in sorted((ROOT / folder).glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    choices = f": give a file or one of {', '.join(shipped)}"
    raise SchemaError(f"there is no {what} {name!r}{did_you_mean(name, shipped) or choices}")
