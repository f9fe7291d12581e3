"""Modules that know the arguments with which they were made."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Self

from torch import nn


class RecordedModule(nn.Module):
    """A module that records the arguments of its constructor but the first one, for the recipe of a saved run.

    Attributes:
        constructor_arguments: The arguments that were given, by name.
    """

    constructor_arguments: Mapping[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the arguments."""
        module = super().__new__(cls)
        names = list(inspect.signature(cls.__init__).parameters)[1:]
        given = dict(zip(names, args, strict=False)) | kwargs
        given.pop(next(iter(names), ""), None)
        object.__setattr__(module, "constructor_arguments", given)
        return module
