"""One boosted-tree model per task: options chosen by random trials on the stop rows, fits by seed, and their cache."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.tree_columns import TaskRows
from benchmarks.tree_data import TreeData
from benchmarks.tree_models import METHODS, Options
from recmtl.comparison.baselines.base import PATIENCE, TREES

Floats = npt.NDArray[np.float64]
Note = Callable[[str], None]
LEFT_OUT = "left_out"  # an option of every method: an id that is not read


@dataclass(frozen=True)
class Fit:
    """A fitted model, by what is reported of it.

    Args:
        scores: Its predictions of the measured rows ``[rows]``.
        stop_auc: Its AUC on the stop rows.
        seconds: Wall-clock seconds of fitting.
        cpu_seconds: CPU seconds of the process in that time.
        parameters: The number of leaves and splits.
        trees: The number of trees.
    """

    scores: Floats
    stop_auc: float
    seconds: float
    cpu_seconds: float
    parameters: int
    trees: int


@dataclass(frozen=True)
class Choice:
    """The options with the best AUC on the stop rows, and the seconds of all trials together."""

    options: Options
    stop_auc: float
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class FitCache:
    """Choices and fits in a folder, by a hash of everything that they depend on.

    Args:
        folder: The folder; created if missing.
        refit: Read choices alone, so that the seconds of fits are of this run.
    """

    folder: Path
    refit: bool = False

    def choice(self, key: Mapping[str, Any], choose: Callable[[], Choice]) -> Choice:
        """Return a choice from the cache, or make and keep it."""
        file = self._file("choice", key, ".json")
        if file.exists():
            return Choice(**json.loads(file.read_text(encoding="utf-8")))
        chosen = choose()
        file.write_text(json.dumps(asdict(chosen)) + "\n", encoding="utf-8")
        return chosen

    def fit(self, key: Mapping[str, Any], fit: Callable[[], Fit]) -> Fit:
        """Return a fit from the cache, or make and keep it."""
        file = self._file("fit", key, ".npz")
        if file.exists() and not self.refit:
            with np.load(file) as saved:
                return Fit(saved["scores"], **json.loads(str(saved["figures"])))
        fitted = fit()
        figures = {name: value for name, value in vars(fitted).items() if name != "scores"}
        np.savez(file, scores=fitted.scores, figures=json.dumps(figures))
        return fitted

    def _file(self, kind: str, key: Mapping[str, Any], suffix: str) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{kind}_{key['data']}_{key['method']}_{key['task']}_{digest}{suffix}"


def fingerprint(data: TreeData) -> str:
    """Return a hash of all rows of a data set."""
    digest = hashlib.sha256()
    for frame in data.frames().values():
        digest.update(",".join(frame.columns).encode())
        digest.update(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class TaskFits:
    """Fits of one method for one task of a data set.

    Args:
        data: The name of the data set.
        rows_hash: The hash of its rows.
        task: The task.
        rows: What the trees read.
        method: A name in `METHODS`.
        threads: Threads of a fit.
        cache: Where choices and fits are kept.
        note: Called with a line about each fit.
    """

    data: str
    rows_hash: str
    task: str
    rows: TaskRows
    method: str
    threads: int
    cache: FitCache
    note: Note

    def choose(self, trials: int) -> Choice:
        """Return the best of the defaults and of random options, one trial each, by the AUC on the stop rows."""
        tried = [{}, *(self._draw(trial) for trial in range(1, trials))]
        return self.cache.choice(self._key(tried=tried), lambda: self._choose(tried))

    def _draw(self, trial: int) -> dict[str, Any]:
        """Return random options; one of the ids may be left out, since most of its values may be unseen later."""
        rng = np.random.default_rng([7, trial])
        options = METHODS[self.method].options(rng)
        left_out = str(rng.choice(["", *self.rows.ids]))
        return options | ({LEFT_OUT: left_out} if left_out else {})

    def _choose(self, tried: Sequence[Options]) -> Choice:
        fits = [self.fit(options, 0, f"trial {number}") for number, options in enumerate(tried)]
        best = max(range(len(tried)), key=lambda number: fits[number].stop_auc)
        seconds, cpu = (sum(getattr(fit, name) for fit in fits) for name in ("seconds", "cpu_seconds"))
        return Choice(tried[best], fits[best].stop_auc, seconds, cpu)

    def fit(self, options: Options, seed: int, what: str) -> Fit:
        """Fit on the training rows, stop on the stop rows, and predict the measured rows."""
        key = self._key(options=dict(options), seed=seed, threads=self.threads)
        fitted = self.cache.fit(key, lambda: self._fit(options, seed))
        figures = f"stop AUC {fitted.stop_auc:.5f}, {fitted.trees} trees, {fitted.seconds:.1f} s"
        self.note(f"{self.data} {self.method} {self.task} {what}: {figures}, threads {self.threads} {dict(options)}")
        return fitted

    def _fit(self, options: Options, seed: int) -> Fit:
        given = dict(options)
        left_out = given.pop(LEFT_OUT, None)
        rows = self.rows.without(left_out) if left_out else self.rows
        start, cpu = time.perf_counter(), time.process_time()
        model = METHODS[self.method].fit(rows, given, seed, self.threads)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
        stop_auc = float(roc_auc_score(rows.stop, model.predict(rows.x["stop"])))
        scores = model.predict(rows.x["measured"])
        return Fit(scores, stop_auc, seconds, cpu_seconds, model.parameters, model.trees)

    def _key(self, **further: Any) -> dict[str, Any]:
        package = METHODS[self.method].package
        fixed = {"rows": self.rows_hash, "version": version(package), "trees": TREES, "patience": PATIENCE}
        return {"data": self.data, "method": self.method, "task": self.task, **fixed, **further}
