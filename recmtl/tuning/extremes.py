"""Values that no recipe takes, found before the first trial by building the recipe with each choice and each end."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any

import torch

from recmtl.errors import UsageError
from recmtl.schema import FittedSchema
from recmtl.tuning.recipes import SearchedRecipe
from recmtl.tuning.space import SearchOption, SearchSpace

DRAWS = 8  # of the other options, with which a value may fit if it does not fit the recipe's own


def check_extremes(recipe: SearchedRecipe, space: SearchSpace, schema: FittedSchema) -> None:
    """Check that each choice and each end of a range can be built, with the recipe's other options or with drawn ones.

    Raises:
        UsageError: One cannot; the error says why.
    """
    random = Random(0)
    for option in space.options:
        for value in option.values.extremes:
            own = {**_classes(space, option), option.name: value}
            refused = _refusal(recipe, space, own, schema)
            draws = (_drawn(space, own, random) for _ in range(DRAWS if len(space.options) > len(own) else 0))
            if refused and all(_refusal(recipe, space, drawn, schema) for drawn in draws):
                raise UsageError(f"`{option.name}` in the search space cannot be {value!r}: {refused}")


def _refusal(recipe: SearchedRecipe, space: SearchSpace, values: Mapping[str, Any], schema: FittedSchema) -> str | None:
    """Return why a trainer with some values cannot be built; ``None`` if it can."""
    try:
        trainer = recipe.trainer(schema, space.arguments(values))
        trainer.setup.optimization.optimizer([torch.nn.Parameter(torch.zeros(1, 1))])
    except ValueError as error:
        return " ".join(str(error).split())
    except Exception:  # not for its value: the trials that fail so say it
        return None
    return None


def _classes(space: SearchSpace, option: SearchOption) -> dict[str, Any]:
    """Return the choices of classes that an option needs, by name."""
    outer = [other for other in space.options if set(other.when) < set(option.when)]
    needed = dict(option.when)
    return {other.name: needed[other.key] for other in outer if other.key in needed}


def _drawn(space: SearchSpace, values: Mapping[str, Any], random: Random) -> dict[str, Any]:
    """Return values of all options that apply: some that are given, and others at random."""
    found, chosen = dict[str, Any](), dict[str, Any]()
    for option in space.options:
        if option.applies(chosen):
            value = values[option.name] if option.name in values else random.choice(option.values.extremes)
            found[option.name] = chosen[option.key] = value
    return found
