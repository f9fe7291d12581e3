"""The trainer: fits a model, measures it, predicts with it."""

from __future__ import annotations

import copy
import resource
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from recmtl.balance import Balancer, Sum
from recmtl.data import Batch, Loader, Rows, encode_rows
from recmtl.data.sources import Data
from recmtl.evaluate import Metrics, complete, measure, table
from recmtl.models import RankingModel
from recmtl.train.curves import save_learning_curves
from recmtl.train.folder import PLOTS, RunError, RunFolder
from recmtl.train.meter import Meter
from recmtl.train.options import Optimization, Run, Stopping
from recmtl.train.progress import TrainingProgress
from recmtl.train.step import Step, autocast
from recmtl.train.stopping import Watch

PREDICT_ROWS = 8192  # per batch where no gradient is taken


class Trainer:
    """Trains a ranking model with a balanced gradient.

    Args:
        model: The model. The balancer takes its place as the model's ``fork``.
        balancer: Turns the losses into gradients; ``Sum`` by default.
        epochs: How often the training rows are seen, at most.
        optimization: How the weights move.
        stopping: When training ends early.
        run: Where it happens and what it leaves behind.

    Raises:
        ValueError: `epochs` is below 1, or the monitor names no task.

    Attributes:
        rows_per_second: Training rows per second of the last fit, evaluations not counted.
        monitor: The metric that is watched.
        best: The best value of the monitored metric; ``None`` before a fit, or where it was never defined.
    """

    def __init__(
        self,
        model: RankingModel,
        balancer: Balancer | None = None,
        epochs: int = 5,
        optimization: Optimization = Optimization(),
        stopping: Stopping = Stopping(),
        run: Run = Run(),
    ) -> None:
        if epochs < 1:
            raise ValueError(f"`epochs` must be at least 1, got {epochs}")
        self.model, self.balancer, self.epochs = model, balancer or Sum(), epochs
        self.optimization, self.stopping, self.run = optimization, stopping, run
        self.device = torch.device(run.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.folder = RunFolder(run.folder) if run.folder else None
        self._names = [task.name for task in model.objectives]
        self.monitor = self._new_watch().monitor
        self.rows_per_second = 0.0
        self.best: float | None = None
        self.balancer.setup(
            objectives=len(model.objectives),
            heads=len(model.heads),
            features=model.view_features,
            parts=sum(tensor.parts for tensor in model.shared().tensors),
            names=self._names,
        )
        model.fork = self.balancer
        model.to(self.device)

    def fit(self, train: Rows, valid: Rows | None = None) -> Trainer:
        """Train, and restore the best weights.

        Args:
            train: The training rows.
            valid: The rows that decide which weights are the best and when to stop; without them the last weights
                stay.

        Raises:
            ValueError: There are no training rows, or they were prepared for another schema.
            RunError: The run folder holds another run.
        """
        self._check(train)
        if len(train) == 0:
            raise ValueError("there are no training rows")
        if self.folder:
            self.folder.create(self.model.schema)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(self.run.seed)
            self._fit(train, valid if valid is not None and len(valid) else None)
        return self

    def _fit(self, train: Rows, valid: Rows | None) -> None:
        loader = Loader(train, self.optimization.batch_size, self.device, self.run.seed)
        step = Step(self.model, self.balancer, self.optimization, self.epochs * len(loader))
        watch, meter = self._new_watch(), Meter(self._names)
        measured_at = {
            round(len(loader) * (i + 1) / self.stopping.evaluations) for i in range(self.stopping.evaluations)
        }
        best_weights: dict[str, Tensor] | None = None
        with TrainingProgress(self.epochs, len(loader), self.run.progress) as progress:
            for epoch in range(1, self.epochs + 1):
                self.model.train()
                for number, batch in enumerate(loader.epoch(epoch), start=1):
                    meter.add(step(batch), len(batch))
                    if number % self.run.log_every == 0 or number == len(loader):
                        self._log(progress, meter, step, epoch, number, len(loader))
                    if number in measured_at and valid is not None:
                        metrics = self._measured(valid, meter)
                        value = watch.value(metrics)
                        if watch.improved(value):
                            best_weights = copy.deepcopy(self.model.state_dict())
                            self._save("best", epoch)
                        progress.evaluated(epoch, number, metrics, watch.waited == 0 and value is not None)
                        self._log_metrics(metrics, epoch, (epoch - 1) * len(loader) + number)
                self._save("last", epoch)
                if watch.exhausted:
                    progress.note(f"stopped: no better {self.monitor} in {watch.waited} evaluations")
                    break
        if best_weights is not None:
            self.model.load_state_dict(best_weights)
        elif self.folder:
            self._save("best", epoch)
        self.rows_per_second, self.best = meter.rows_per_second, watch.best

    @property
    def skipped(self) -> dict[str, int]:
        """How often a loss or gradient was left out for not being finite, by objective; those that never were are not.

        Waits for the device.
        """
        counts = self.balancer.skipped.tolist()
        return {name: count for name, count in zip(self._names, counts, strict=False) if count}

    def evaluate(self, rows: Rows) -> pd.DataFrame:
        """Measure the model: one row per task, with a funnel CTR, CVR and CTCVR; NaN and a reason where undefined."""
        return table(self.measure(rows))

    def measure(self, rows: Rows) -> dict[str, Metrics]:
        """Measure the model, task by task."""
        schema = self.model.schema.schema
        return measure(schema, self.predictions(rows), rows.labels, rows.weight)

    def finish(self, splits: Mapping[str, Rows]) -> dict[str, dict[str, Metrics]]:
        """Measure the model on the named rows and finish the run folder: learning curves, then `metrics.json`.

        Args:
            splits: The rows to measure, by the name under which the metrics stand.
        """
        measured = {name: self.measure(rows) for name, rows in splits.items()}
        if self.folder:
            save_learning_curves(self.folder.records(), self.folder.path / PLOTS / "learning_curves.png")
            self.folder.finish(
                {
                    **{split: {name: m.to_dict() for name, m in tasks.items()} for split, tasks in measured.items()},
                    "best": {"monitor": self.monitor, "value": self.best},
                    "train_rows_per_second": self.rows_per_second,
                    "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                    "device": str(self.device),
                }
            )
        return measured

    def predict(self, data: Rows | Data) -> pd.DataFrame:
        """Predict the probabilities (of a regression: the values) of every task, beside the keys that the data has.

        Args:
            data: Prepared rows, or raw ones in any form that `prepare` takes; these need no labels.
        """
        parts = [data] if isinstance(data, Rows) else encode_rows(self.model.schema, data, labelled=False)
        return pd.concat([self._predicted(rows) for rows in parts], ignore_index=True)

    def _predicted(self, rows: Rows) -> pd.DataFrame:
        predictions, _ = complete(self.model.schema.schema, self.predictions(rows))
        keys: pd.DataFrame = rows.keys.to_pandas()
        return keys.assign(**predictions)

    def predictions(self, rows: Rows) -> dict[str, npt.NDArray[np.float64]]:
        """Predict each output of the model ``{task: [rows]}``, in the order of the rows."""
        self._check(rows)
        parts: list[dict[str, Tensor]] = []
        with evaluating(self.model), torch.inference_mode(), autocast(self.device, self.optimization):
            for batch in Loader(rows, PREDICT_ROWS, self.device).epoch():
                parts.append({name: value.double() for name, value in self._activated(batch).items()})
        names = parts[0] if parts else {}
        return {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in names}

    def _activated(self, batch: Batch) -> dict[str, Tensor]:
        """Turn logits into probabilities; the sampling of negatives is undone."""
        tasks = {task.name: task for task in (*self.model.schema.schema.reported_tasks, *self.model.objectives)}
        outputs = {}
        for name, logit in self.model(batch).items():
            binary = tasks[name].kind == "binary"
            shift = float(np.log(tasks[name].negative_rate))
            outputs[name] = torch.sigmoid(logit.double() + shift) if binary else logit
        return outputs

    def load(self, name: str = "best", folder: RunFolder | None = None) -> Trainer:
        """Load the weights of a checkpoint of the run folder.

        Raises:
            RunError: There is none, it is damaged, or it does not fit the schema or the model.
        """
        folder = folder or self.folder
        if folder is None:
            raise RunError("there is no run folder to load from: give `run=Run(folder=…)`")
        state = folder.load_checkpoint(name, self.device)
        if state.get("fingerprint") != self.model.schema.fingerprint:
            raise RunError(f"the checkpoint of {str(folder.path)!r} was trained on another schema than the model's")
        try:
            self.model.load_state_dict(state["model"])
        except (RuntimeError, KeyError) as error:
            detail = " ".join(str(error).split())
            raise RunError(f"the checkpoint of {str(folder.path)!r} does not fit the model: {detail}") from error
        return self

    def _check(self, rows: Rows) -> None:
        if rows.schema is not self.model.schema and rows.schema.fingerprint != self.model.schema.fingerprint:
            raise ValueError(
                "the rows were prepared with another schema than the model's: prepare them with the model's"
            )

    def _new_watch(self) -> Watch:
        reported = {task.name: task for task in (*self.model.schema.schema.reported_tasks, *self.model.objectives)}
        return Watch(self.stopping, self.model.objectives, list(reported.values()))

    def _measured(self, valid: Rows, meter: Meter) -> dict[str, Metrics]:
        with meter.paused():
            return self.measure(valid)

    def _save(self, name: str, epoch: int) -> None:
        if self.folder:
            state = {"fingerprint": self.model.schema.fingerprint, "epoch": epoch, "model": self.model.state_dict()}
            self.folder.save_checkpoint(name, state)

    def _log(self, progress: TrainingProgress, meter: Meter, step: Step, epoch: int, number: int, steps: int) -> None:
        losses = meter.take_losses()
        progress.step(epoch, number, losses, meter.rows_per_second)
        if not self.folder:
            return
        record: dict[str, Any] = {"step": (epoch - 1) * steps + number, "epoch": epoch}
        record["loss"] = {name: finite(loss) for name, loss in losses.items()}
        weights = self.balancer.weights
        if weights is not None:
            record["weight"] = dict(zip(self._names, weights.tolist(), strict=True))
        record |= {"learning_rate": step.learning_rate, "rows_per_second": meter.rows_per_second}
        self.folder.log(record)

    def _log_metrics(self, metrics: dict[str, Metrics], epoch: int, step: int) -> None:
        if self.folder:
            valid = {name: m.to_dict() for name, m in metrics.items()}
            self.folder.log({"step": step, "epoch": epoch, "valid": valid})


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode within a block."""
    mode = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(mode)


def finite(value: float) -> float | None:
    """Give a number that JSON can hold: ``None`` for NaN and infinity."""
    return value if np.isfinite(value) else None
