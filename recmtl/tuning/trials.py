"""How a process trains the trials of searches, one after the other."""

from __future__ import annotations

import gc
import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from recmtl.callbacks import OptunaPruning
from recmtl.data import PreparedData
from recmtl.errors import RunError
from recmtl.recipe.data import open_data
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.recipe import build, data_options
from recmtl.recipe.trust import named_modules, schema_to_train
from recmtl.tuning.study import Outcome


class RemoteTrial:
    """A trial whose study is the parent's: what `OptunaPruning` needs of one.

    Args:
        replies: Where values go.
        requests: Where answers come from.
    """

    def __init__(self, replies: Connection, requests: SimpleQueue[Any]) -> None:
        self._replies, self._requests = replies, requests
        self._prune = False

    def report(self, value: float, step: int) -> None:
        """Send the value of an evaluation, and wait for whether to go on."""
        self._replies.send(("evaluation", step, value))
        self._prune = self._requests.get()

    def should_prune(self) -> bool:
        """Return whether the trial shall end."""
        return self._prune


class TrialRunner(ABC):
    """Trains trials of one kind, on data that is opened once."""

    def __init__(self) -> None:
        self._opened: tuple[str, PreparedData] | None = None

    def run(self, recipe: Mapping[str, Any], trial: RemoteTrial) -> Outcome:
        """Train a recipe, and return how it ended."""
        started = time.perf_counter()
        try:
            value, pruned = self.train(recipe, trial)
        except Exception as error:  # whatever the options of a trial lead to
            own = isinstance(error, ValueError | MemoryError | OSError) and str(error)
            reason = str(error) if own else f"{type(error).__name__}: {error}"
            return Outcome(None, time.perf_counter() - started, " ".join(reason.split()))
        finally:
            gc.collect()
        return Outcome(value, time.perf_counter() - started, None, pruned)

    @abstractmethod
    def train(self, recipe: Mapping[str, Any], trial: Any) -> tuple[float | None, bool]:
        """Train a recipe, and return the best value of its metric and whether it was pruned."""

    @cached_property
    def parser(self) -> ArgumentParser:
        """The parser of recipes."""
        return recipe_parser("recmtl tune")

    def parse(self, recipe: Mapping[str, Any]) -> Namespace:
        """Return the options of a recipe."""
        return parse_recipe(self.parser, [f"--config={json.dumps(recipe)}"])

    def data(self, config: Namespace) -> PreparedData:
        """Return the data that options name, which the next trial with the same ones has as well."""
        key = repr(config.data)
        if self._opened is None or self._opened[0] != key:
            self._opened = (key, open_data(data_options(config)))
        return self._opened[1]


class NetTrials(TrialRunner):
    """Trains the trials of recipes of `recmtl train`."""

    def train(self, recipe: Mapping[str, Any], trial: Any) -> tuple[float | None, bool]:
        """Train a recipe, as `TrialRunner.train` does."""
        config = self.parse(recipe)
        data = self.data(config)
        trainer = build(self.parser, config, schema_to_train(data.schema, named_modules(recipe)))
        pruning = OptunaPruning(trial)
        trainer.setup = replace(trainer.setup, callbacks=(*trainer.setup.callbacks, pruning))
        trainer.fit(data.train, data.valid, note=log)
        if trainer.result.best is None:
            raise RunError(f"{trainer.setup.metric_monitor().monitor} was never defined{_why(trainer.result.records)}")
        return trainer.result.best, pruning.pruned


def _why(records: Sequence[Mapping[str, Any]]) -> str:
    """Return why metrics were undefined in the last evaluation among the records of a log."""
    last: Mapping[str, Any] = next((record["valid"] for record in reversed(records) if "valid" in record), {})
    reasons = [f"{task}: {found['reason']}" for task, found in last.items() if "reason" in found]
    return f" ({'; '.join(reasons)})" if reasons else ""


def log(text: str) -> None:
    """Write a line to the worker's log."""
    sys.stderr.write(f"{text}\n")
