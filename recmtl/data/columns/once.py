"""What encoding needs of a fitted schema, made once and kept as long as the schema."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from recmtl.schema import FittedSchema

Made = TypeVar("Made")


class OncePerSchema(Generic[Made]):
    """Makes something of a fitted schema, or of some names in it, once, also if several threads ask for it.

    Args:
        make: Makes it, given the schema and the names.
    """

    def __init__(self, make: Callable[..., Made]) -> None:
        self._make, self._lock = make, Lock()
        self._made: WeakKeyDictionary[FittedSchema, dict[tuple[str, ...], Made]] = WeakKeyDictionary()

    def __call__(self, fitted: FittedSchema, *names: str) -> Made:
        """Return what is made of a schema, or of names in it."""
        with self._lock:
            made = self._made.setdefault(fitted, {})
            if names not in made:
                made[names] = self._make(fitted, *names)
            return made[names]
