"""The model that is served, and the next one: noticed, checked beside it, and taken over."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

from recmtl.serving.server.logs import Log, one_line
from recmtl.serving.server.served import Contract, ScoringModel, ServedModel

SCORER = "recmtl.serving.scorer:Scorer"
SETTLED = 0.2  # seconds for which a folder must not have changed before it is read
Load = Callable[[Path], ScoringModel]
Identity = tuple[object, ...]


class UnfitModelError(ValueError):
    """A model that would not serve the clients of the one before."""


class ModelWatcher:
    """Holds the model that is served, and replaces it when the folder holds another that is fit.

    Args:
        folder: The exported model: a folder, or a link to one.
        load: Loads and checks a model.
        log: Is told which models are taken and refused.
        contract: What clients rely on; that of the first model by default.
        on_change: Is told of each attempt: the model, or ``None`` if it was refused.

    Raises:
        UnfitModelError: The first model breaks the contract. What `load` raises passes, too.
    """

    def __init__(
        self,
        folder: Path,
        load: Load,
        log: Log,
        contract: Contract | None = None,
        on_change: Callable[[ServedModel | None, ServedModel | None], object] = lambda new, old: None,
    ) -> None:
        self._folder, self._load, self._log, self._on_change = folder, load, log, on_change
        self._seen = identity(folder)
        self.current = ServedModel.of(load(folder))
        self.contract = contract or self.current.contract
        self._check(self.current)
        on_change(self.current, None)

    async def watch(self, every: float) -> None:
        """Look at the folder again and again; runs until it is cancelled."""
        with ThreadPoolExecutor(1, "load-model") as executor:
            while True:
                await asyncio.sleep(every)
                found = identity(self._folder)
                if found == self._seen:
                    continue
                if found is None:
                    self._seen = None
                    self._log("model gone", "warning", folder=str(self._folder), still=self.current.version)
                    continue
                await asyncio.sleep(SETTLED)
                if identity(self._folder) != found:
                    continue  # it is being written
                self._seen = found
                await self._replace(executor)

    async def _replace(self, executor: ThreadPoolExecutor) -> None:
        """Load what the folder holds now, and take it over if it is fit."""
        loop, started, old = asyncio.get_running_loop(), time.perf_counter(), self.current
        try:
            new = await loop.run_in_executor(executor, self._load_checked)
        except Exception as error:  # whatever is wrong with it, the old one serves on
            self._on_change(None, None)
            self._log("model refused", "warning", reason=one_line(error), still=old.version)
            return
        if new.version == old.version:
            return
        self.current = new
        self._on_change(new, old)
        self._log("model taken", model=new.version, before=old.version, seconds=round(time.perf_counter() - started, 3))

    def _load_checked(self) -> ServedModel:
        new = ServedModel.of(self._load(self._folder))
        self._check(new)
        return new

    def _check(self, new: ServedModel) -> None:
        breach = self.contract.breach(new.contract)
        if breach is not None:
            raise UnfitModelError(f"clients of the present model could not use it: {breach}")


def identity(folder: Path) -> Identity | None:
    """Return what changes when a folder, or a file in it, is replaced or written; ``None`` if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            stats = {entry.name: entry.stat() for entry in entries}
        place = os.path.realpath(folder)
    except OSError:
        return None
    return place, *sorted((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats.items())


def load_with(scorer: str, threads: int = 1) -> Load:
    """Return the function that loads models by a class, given as ``module:name``."""
    module, _, name = scorer.partition(":")
    build = getattr(import_module(module), name)
    return lambda folder: build(folder, threads=threads)
