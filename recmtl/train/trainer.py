"""The trainer: fits a model, measures it, predicts with it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch

from recmtl.balance import Balancer, Sum
from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.data import DataError, Loader, Rows, encode_rows
from recmtl.data.preparation.prepare import Progress
from recmtl.data.sources.bad_rows import BadRows
from recmtl.data.sources.open import Data
from recmtl.errors import RunError
from recmtl.evaluate import Metrics, Predictions, measure, table
from recmtl.io.memory import explain_oom
from recmtl.models import RankingModel
from recmtl.runs.checkpoints import Checkpoints
from recmtl.runs.folder import RunFolder
from recmtl.train.artifacts import finish
from recmtl.train.device import check_without_gpu, device_of, usable
from recmtl.train.distributed import (
    all_gather_object,
    all_processes,
    broadcast_object,
    copy_from_first,
    smallest_window,
)
from recmtl.train.loop import TrainingLoop
from recmtl.train.monitor import MetricMonitor
from recmtl.train.nonfinite import NonFiniteCounter
from recmtl.train.options import EarlyStopping, Optimization, RunConfig
from recmtl.train.predictor import outputs, share_of
from recmtl.train.resume import check_same, shape_of
from recmtl.train.setup import check_shares, claim
from recmtl.train.step import Step

INTEGERS = {pa.int64(): pd.Int64Dtype()}  # keys with gaps stay integers


class Trainer:
    """Trains a ranking model with a balanced gradient.

    Where `torch.distributed` is initialized, its processes share each batch: every one makes the same trainer and calls
    `fit`, and then `finish`, with the same rows. The first one writes the run folder.

    Args:
        model: The model. The balancer takes its place as the model's ``fork``.
        balancer: Turns the losses into gradients; ``Sum`` by default.
        epochs: How often the training rows are seen, at most.
        gradient_stats_every: Steps between two measurements of the tasks' gradients on the shared tensors: their norms and
            pairwise cosines, beside losses and weights, into the log. 0 measures nothing; training is the same.
        optimization: How the weights move.
        stopping: When training ends early.
        run: Where it happens and what it leaves behind.

    Raises:
        ValueError: `epochs` or `gradient_stats_every` is too small, the monitor names nothing that is measured, or the device
            cannot be used, or not with the precision; or the balancer is not `Sum` where the tasks share nothing.

    Attributes:
        rows_per_second: Training rows per second of the last fit, evaluations not counted.
        seconds: How long the last fit took, evaluations counted.
        window: The training rows that the last fit held in memory at a time; ``None`` where it held all.
        monitor: The metric that is watched.
        processes: The processes that share each batch.
        folder: The run folder, where this process writes one.
        best: The best value of the monitored metric; ``None`` before a fit, or where it was never defined.
    """

    def __init__(
        self,
        model: RankingModel,
        balancer: Balancer | None = None,
        epochs: int = 5,
        gradient_stats_every: int = 0,
        optimization: Optimization = Optimization(),
        stopping: EarlyStopping = EarlyStopping(),
        run: RunConfig = RunConfig(),
    ) -> None:
        if epochs < 1:
            raise ValueError(f"`epochs` must be at least 1, got {epochs}")
        if gradient_stats_every < 0:
            raise ValueError(f"`gradient_stats_every` must be at least 0, got {gradient_stats_every}")
        self.model, self.balancer, self.epochs = model, balancer or Sum(), epochs
        claim(self.balancer, model)
        check_shares(model, self.balancer)
        self.gradient_stats_every = gradient_stats_every
        self.optimization, self.stopping, self.run = optimization, stopping, run
        self.processes = self.balancer.processes = all_processes()
        self.device = usable(device_of(run.device, self.processes))
        if self.device.type != "cuda":
            check_without_gpu(optimization, self.device)
        elif self.processes.size > 1:
            torch.cuda.set_device(self.device)
        self.folder = RunFolder(run.folder) if run.folder and self.processes.first else None
        self._names = [task.name for task in model.objectives]
        self.monitor = self.watch().monitor
        self.rows_per_second = self.seconds = 0.0
        self.best: float | None = None
        self.window: int | None = None
        self._incidents: NonFiniteCounter | None = None
        self.balancer.setup(
            objectives=len(model.objectives),
            heads=len(model.heads),
            features=model.view_features,
            parts=sum(tensor.parts for tensor in model.shared().tensors),
            names=self._names,
            head_names=list(model.heads),
        )
        model.fork = self.balancer
        with explain_oom(f"the model on {self.device}", "give smaller tables or layers"):
            model.to(self.device)

    def fit(
        self,
        train: Rows,
        valid: Rows | None = None,
        resume: bool = False,
        note: Callable[[str], None] = warnings.warn,
    ) -> Trainer:
        """Train, and restore the best weights.

        With a run folder checkpoints are written. SIGINT, SIGTERM and SIGHUP then end the step first, and leave one.

        Args:
            train: The training rows.
            valid: The rows that decide which weights are the best and when to stop; without them the last weights
                stay.
            resume: Go on from the last good checkpoint of the run folder, where there is one: on a CPU, all comes out
                as if the training had not been stopped. Rows and options must be the same.
            note: Told of a checkpoint that is damaged, where an older one is taken, and of a damaged log; and, where no
                progress is shown, of what was not finite.

        Raises:
            DataError: There are no training rows, they were prepared for another schema, or the run folder cannot be
                written.
            ValueError: The optimizer refuses its options.
            RunError: The run folder holds another run; or, to resume, there is none, all of its checkpoints are
                damaged, or it was begun otherwise; or another process is at work in it.
            DivergenceError: Weights or too many steps were not finite, or the model is far worse than at the start.
            OutOfMemoryError: Memory does not hold the rows, or a step. It is a `MemoryError`.
            Interrupted: A signal asked to stop. It is a `KeyboardInterrupt`.
        """
        self._check(train)
        if len(train) == 0:
            raise DataError("there are no training rows")
        if resume and self.run.folder is None:
            raise RunError("there is no run folder to go on in: give `run=Run(folder=…)`")
        with self.folder.held() if self.folder else nullcontext():
            self._begin(train, valid, resume, note)
        return self

    def _begin(self, train: Rows, valid: Rows | None, resume: bool, note: Callable[[str], None]) -> None:
        check_same(all_gather_object(self.processes, shape_of(self) | {"resume": resume}))
        saved = Checkpoints(self.folder).restore(note) if self.folder and resume else None
        if self.folder and saved is None and (self.folder.finished or not resume):
            self.folder.check_free()
        saved = broadcast_object(self.processes, saved)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed((self.processes.rank << 32) + self.run.seed)
            with explain_oom(f"training on batches of {self.optimization.batch_size:,} rows", "lower `batch_size`"):
                self._fit(train, valid if valid is not None and len(valid) else None, saved, note)

    def _fit(
        self, train: Rows, valid: Rows | None, saved: Mapping[str, Any] | None, note: Callable[[str], None]
    ) -> None:
        start = time.perf_counter()
        processes = self.processes
        window = saved["window"] if saved else self.run.window or smallest_window(train, processes)
        batch_size, seed = self.optimization.batch_size, self.run.seed
        with explain_oom(f"the {len(train):,} training rows at once", "give `window`, how many are held at a time"):
            loader = Loader(train, batch_size, self.device, seed, window, processes.rank, processes.size)
        copy_from_first(processes, self.model)
        step = Step(self.model, self.balancer, self.optimization, self.epochs * len(loader))
        if self.folder and saved is None:
            self.folder.create(self.model.schema)
        self._incidents = step.incidents
        self.window = loader.window if loader.window < len(train) else None
        TrainingLoop(self, loader, step, valid, start, note).run(saved)

    @property
    def skipped(self) -> dict[str, int]:
        """What was left out for not being finite, counted; what never was is not named. Waits for the device.

        Steps by the name of the objective (of the head, for representation methods) whose loss or shared gradient was
        left out, and under `gradients` the tensors that had entries set to 0: those of a task's own layers and, where
        losses are weighed as a whole, also what it shares with the others.
        """
        counts = dict(zip(self.balancer.labels or (), self.balancer.skipped.tolist(), strict=False))
        counts["gradients"] = 0 if self._incidents is None else int(self._incidents.zeroed)
        return {name: count for name, count in counts.items() if count}

    def evaluate(self, data: Rows | Data, bad_rows: BadRows = "error") -> pd.DataFrame:
        """Measure the model: one row per task, with a funnel CTR, CVR and CTCVR; NaN and a reason where undefined.

        Args:
            data: Prepared rows, or raw ones with labels in any form that `prepare` takes.
            bad_rows: What becomes of raw rows that do not parse, as in `prepare`; a warning counts those left out.
        """
        return table(self.measure(data if isinstance(data, Rows) else self.encode(data, bad_rows=bad_rows)))

    def encode(
        self,
        data: Data,
        progress: Progress = lambda what, rows: None,
        bad_rows: BadRows = "error",
        note: Callable[[str], None] = warnings.warn,
    ) -> Rows:
        """Encode raw rows with labels as the training rows were.

        Args:
            data: Rows in any form that `prepare` takes.
            progress: Called with what is being done and the number of rows just read.
            bad_rows: What becomes of rows that do not parse, as in `prepare`.
            note: Called at the end with what is to be said of rows that were left out.
        """
        parts = [part.table for part in encode_rows(self.model.schema, data, True, progress, bad_rows, note)]
        return Rows(self.model.schema, pa.concat_tables(parts))

    def measure(self, rows: Rows, names: Collection[str] | None = None, together: bool = False) -> dict[str, Metrics]:
        """Measure the model, task by task.

        Args:
            rows: The rows.
            names: The metrics to measure, where not all are wanted.
            together: Whether all processes measure it, each predicting its share of the rows.
        """
        schema = self.model.schema.schema
        return measure(schema, self.predictions(rows, together), rows.labels, rows.weight, rows.keys, names=names)

    def finish(self, splits: Mapping[str, Rows]) -> dict[str, dict[str, Metrics]]:
        """Measure the model on the named rows and finish the run folder: predictions, plots, at last `metrics.json`.

        Args:
            splits: The rows to measure, by the name under which the metrics stand.
        """
        return finish(self, splits)

    def predict(self, data: Rows | Data, bad_rows: BadRows = "error") -> pd.DataFrame:
        """Predict the probabilities (of a regression: the values) of every task, beside the keys that the data has.

        Args:
            data: Prepared rows, or raw ones in any form that `prepare` takes; these need no labels.
            bad_rows: What becomes of raw rows that do not parse, as in `prepare`; a warning counts those left out.
        """
        schema = self.model.schema
        parts = [data] if isinstance(data, Rows) else encode_rows(schema, data, labelled=False, bad_rows=bad_rows)
        predicted = [replace(self.predict_rows(rows), labels={}, weight=None).table() for rows in parts]
        frame: pd.DataFrame = pa.concat_tables(predicted).to_pandas(types_mapper=INTEGERS.get)
        return frame

    def predict_rows(self, rows: Rows, together: bool = False) -> Predictions:
        """Predict every task, beside labels, weights and keys of the rows.

        Args:
            rows: The rows.
            together: Whether all processes predict them, each its share.
        """
        predicted = self.predictions(rows, together)
        return Predictions(self.model.schema.schema, predicted, rows.labels, rows.weight, rows.keys)

    def predictions(self, rows: Rows, together: bool = False) -> dict[str, npt.NDArray[np.float64]]:
        """Predict each output of the model ``{task: [rows]}``, in the order of the rows.

        Args:
            rows: The rows.
            together: Whether all processes predict them, each its share; every one is given all.
        """
        self._check(rows)
        if len(rows) == 0:
            return {name: np.empty(0) for name in dict.fromkeys((*self.model.heads, *self._names))}
        processes = self.processes if together else SINGLE_PROCESS
        own = outputs(self.model, share_of(rows, processes.rank, processes.size), self.device, self.optimization)
        parts = [part for part in all_gather_object(processes, own) if part]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def load(self, name: str = "best", folder: RunFolder | None = None) -> Trainer:
        """Load the weights of a checkpoint of the run folder.

        Raises:
            RunError: There is none, it is damaged, or it does not fit the schema or the model.
        """
        folder = folder or self.folder
        if folder is None:
            raise RunError("there is no run folder to load from: give `run=Run(folder=…)`")
        return self.take(folder.load_checkpoint(name, self.device), folder)

    def take(self, state: Mapping[str, Any], folder: RunFolder) -> Trainer:
        """Take the weights of a checkpoint that was read from a run folder.

        Raises:
            RunError: It does not fit the schema or the model.
        """
        if state.get("fingerprint") != self.model.schema.fingerprint:
            raise RunError(f"the checkpoint of {str(folder.path)!r} was trained on another schema than the model's")
        try:
            self.model.load_state_dict(state["model"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            detail = " ".join(str(error).split())
            raise RunError(f"the checkpoint of {str(folder.path)!r} does not fit the model: {detail}") from error
        return self

    def _check(self, rows: Rows) -> None:
        if not isinstance(rows, Rows):
            raise DataError(f"expected prepared rows, got {type(rows).__name__}: use `prepare` first")
        if rows.schema is not self.model.schema and rows.schema.fingerprint != self.model.schema.fingerprint:
            raise DataError(
                "the rows were prepared with another schema than the model's: prepare them with the model's"
            )

    def watch(self) -> MetricMonitor:
        """Make what says which evaluation is the best, anew for each training."""
        reported = {task.name: task for task in (*self.model.schema.schema.reported_tasks, *self.model.objectives)}
        grouped = self.model.schema.schema.group is not None
        return MetricMonitor(self.stopping, self.model.objectives, list(reported.values()), grouped)
