"""The recipe that a search begins with, those of its trials, and the space that is searched by default."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar

from jsonargparse import ArgumentParser, Namespace

from recmtl.data import PreparedData
from recmtl.data.preparation.part_work import Progress
from recmtl.errors import DataError
from recmtl.recipe.data import open_data
from recmtl.recipe.option_errors import check_arguments, nested_options
from recmtl.recipe.options import DEFAULT_CLASSES, parse_recipe, resolve_arguments
from recmtl.recipe.recipe import build, check_recipes, complete_recipe, instantiate
from recmtl.schema import FittedSchema, Schema
from recmtl.train import Trainer
from recmtl.tuning.space import SearchSpace
from recmtl.tuning.trials import NetTrials

LEARNING_RATE, BALANCER_RATE = "trainer.optimization.optimizer.lr", "trainer.optimization.balancer_rate"
DEFAULT_RATE = 0.001  # of the optimizers
OWN_RATES = {"low": 1e-5, "high": 1e-2, "log": True}  # of a balancer's own parameters
CLASSES = ("model", "balancer")


@dataclass(frozen=True)
class SearchedRecipe:
    """A recipe whose options are searched.

    Args:
        parser: The parser that has its options.
        arguments: Its options, as command-line arguments.
    """

    parser: ArgumentParser
    arguments: tuple[str, ...]
    runner: ClassVar[type[NetTrials]] = NetTrials

    def complete(self, options: Sequence[str] = ()) -> dict[str, Any]:
        """Return all keys of the recipe with further options, to train it."""
        return complete_recipe(self.parser, parse_recipe(self.parser, [*self.arguments, *options]))

    def of_trial(self, options: Sequence[str] = ()) -> dict[str, Any]:
        """Return all keys of a trial's recipe, which names no test rows and no run folder."""
        return complete_recipe(self.parser, self._without_test([*self.arguments, *options]))

    def _without_test(self, arguments: Sequence[str]) -> Namespace:
        config = parse_recipe(self.parser, arguments)
        forget_test_rows(config.data)
        config.trainer.run.folder, config.trainer.run.progress = None, False
        return config

    @cached_property
    def named(self) -> dict[str, str]:
        """The classes that it names, by key."""
        return check_arguments(self.parser, [*DEFAULT_CLASSES, *resolve_arguments(self.arguments)])

    @cached_property
    def options(self) -> dict[str, Any]:
        """Its options by dotted key, without the names of classes' places."""
        return dict(nested_options(self.of_trial()))

    def trainer(self, schema: FittedSchema, options: Sequence[str] = ()) -> Trainer:
        """Build the trainer of the recipe, without callbacks: what is monitored and which tasks there are."""
        config = self._without_test([*self.arguments, *options])
        config.trainer.callbacks = []
        return build(self.parser, config, schema)

    def open_data(self, progress: Progress, check: Callable[[Schema], None] | None = None) -> PreparedData:
        """Open the training and validation rows.

        Args:
            progress: Called with the current activity and the number of rows just read.
            check: Called with the schema before rows are prepared; ``None`` checks that it fits this recipe.

        Raises:
            UsageError: The model or the trainer of a recipe cannot have the schema of the data.
            DataError: They cannot be read, or there are no validation rows.
        """
        config = self._without_test(self.arguments)
        check = check or partial(check_recipes, [config])
        data = open_data(instantiate(self.parser, config).data, progress, check)
        if not len(data.splits.get("valid", ())):
            raise DataError(
                "there are no validation rows to compare trials on: give `--data.valid`, or a `--data.holdout` above 0"
            )
        return data

    def space(self, content: Mapping[str, Any], trainer: Trainer) -> SearchSpace:
        """Check a search space against the recipe.

        Raises:
            UsageError: A key or a range cannot be used.
        """
        tasks = trainer.model.task_losses.names
        return SearchSpace.parse(content, self.parser, self.named, tasks, self.options)

    def default_space(self, trainer: Trainer) -> dict[str, Any]:
        """Return what is searched if nothing else is said: the learning rate, and the options of the balancer."""
        rate = float(self.options.get(LEARNING_RATE) or DEFAULT_RATE)
        return {LEARNING_RATE: {"low": rate / 10, "high": rate * 10, "log": True}, **balancer_space(trainer)}


def forget_test_rows(data: MutableMapping[str, Any] | Namespace) -> None:
    """Take the test rows out of the data options of a recipe."""
    for key in ("test", "test_since", "test_until"):
        data[key] = None
    data["thinned"] = [name for name in data["thinned"] if name != "test"]
    if not data["thinned"]:  # nothing else was
        data["negative_rate"], data["negative_labels"], data["thinned"] = 1.0, [], ["train"]


def balancer_space(trainer: Trainer) -> dict[str, Any]:
    """Return what is searched of a balancer's options if nothing else is said."""
    options = {f"balancer.{name}": values for name, values in type(trainer.balancer).search_space.items()}
    own = any(True for _ in trainer.balancer.parameters())
    return options | ({BALANCER_RATE: OWN_RATES} if own else {})


def space_of_variant(content: Mapping[str, Any], model: str, balancer: str, default: Mapping[str, Any]) -> Any:
    """Return the part of a search space that applies to one model and balancer.

    What stands under another class is left out. The balancer's default space applies unless its name is in the space.

    Args:
        content: The space.
        model: The name of the model's class.
        balancer: The name of the balancer's class.
        default: The default space of the balancer.
    """
    found: dict[str, Any] = {}
    named = False
    for key, value in content.items():
        if key in CLASSES and isinstance(value, dict):
            own = {"model": model, "balancer": balancer}[key]
            named = named or (key == "balancer" and own in value)
            found |= {f"{key}.{name}": inner for name, inner in (value.get(own) or {}).items()}
        elif key not in CLASSES:
            found[key] = value
    return found if named else {**default, **found}


def as_text(recipe: Mapping[str, Any]) -> str:
    """Return a recipe as text that `--config` takes."""
    return json.dumps(recipe)
