"""A process that trains one trial after the other, as its parent asks: `python -m recmtl.tuning.worker`.

Messages are pickled tuples over standard input and output. It ends when its parent does.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from jsonargparse import ArgumentParser

from recmtl.callbacks import OptunaPruning
from recmtl.data import PreparedData
from recmtl.recipe.data import open_data
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.recipe import build, instantiate
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


class TrialRunner:
    """Trains trials, on data that is opened once."""

    def __init__(self) -> None:
        self._parser = recipe_parser("recmtl tune")
        self._opened: tuple[str, PreparedData] | None = None

    def run(self, recipe: Mapping[str, Any], trial: RemoteTrial) -> Outcome:
        """Train a recipe, and return how it ended."""
        started = time.perf_counter()
        try:
            value, pruned = self._train(recipe, trial)
        except Exception as error:  # whatever the options of a trial lead to
            own = isinstance(error, ValueError | MemoryError | OSError) and str(error)
            reason = str(error) if own else f"{type(error).__name__}: {error}"
            return Outcome(None, time.perf_counter() - started, " ".join(reason.split()))
        finally:
            gc.collect()
        return Outcome(value, time.perf_counter() - started, None, pruned)

    def _train(self, recipe: Mapping[str, Any], trial: Any) -> tuple[float | None, bool]:
        config = parse_recipe(self._parser, [f"--config={json.dumps(recipe)}"])
        data = self._data(recipe, self._parser, config)
        trainer = build(self._parser, config, data.schema)
        pruning = OptunaPruning(trial)
        trainer.setup = replace(trainer.setup, callbacks=(*trainer.setup.callbacks, pruning))
        trainer.fit(data.train, data.valid, note=log)
        return trainer.result.best, pruning.pruned

    def _data(self, recipe: Mapping[str, Any], parser: ArgumentParser, config: Any) -> PreparedData:
        key = json.dumps(recipe["data"], sort_keys=True)
        if self._opened is None or self._opened[0] != key:
            self._opened = (key, open_data(instantiate(parser, config).data))
        return self._opened[1]


def log(text: str) -> None:
    """Write a line to the worker's log."""
    sys.stderr.write(f"{text}\n")


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's matter
    incoming, outgoing = Connection(os.dup(0), writable=False), Connection(os.dup(1), readable=False)
    os.dup2(2, 1)  # what a user's code prints is no message
    requests: SimpleQueue[Any] = SimpleQueue()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())

    def receive() -> None:
        while True:
            try:
                requests.put(incoming.recv())
            except (EOFError, OSError):
                os._exit(0)  # in the midst of a training, if the parent was killed

    threading.Thread(target=receive, daemon=True).start()
    runner = TrialRunner()
    outgoing.send(("ready",))
    while True:
        outgoing.send(("end", runner.run(requests.get(), RemoteTrial(outgoing, requests))))


if __name__ == "__main__":
    main()
