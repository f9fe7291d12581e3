"""One training: the loop, what it logs, and which weights are the best."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from recmtl.data import Loader, Rows
from recmtl.train.meter import Meter
from recmtl.train.progress import TrainingProgress
from recmtl.train.step import Step

if TYPE_CHECKING:
    from recmtl.train.trainer import Trainer


class Fitting:
    """Trains the model of a trainer over its epochs.

    Args:
        trainer: The model, the balancer and the options.
        loader: The training rows.
        step: Trains on one batch.
        valid: The rows that are measured; ``None`` where there are none.
    """

    def __init__(self, trainer: Trainer, loader: Loader, step: Step, valid: Rows | None) -> None:
        self._trainer, self._loader, self._step, self._valid = trainer, loader, step, valid
        self._names = [task.name for task in trainer.model.objectives]
        evaluations = trainer.stopping.evaluations if valid is not None else 0
        self._measured_at = {round(len(loader) * (i + 1) / evaluations) for i in range(evaluations)}
        self._best_weights: dict[str, Tensor] | None = None
        self._progress = TrainingProgress(trainer.epochs, len(loader), trainer.run.progress)
        self._watch = trainer.watch()
        self._meter = Meter(self._names)

    def run(self) -> None:
        """Train, and restore the best weights; without a defined metric the last ones stay."""
        with self._progress:
            for epoch in range(1, self._trainer.epochs + 1):
                self._epoch(epoch)
                self._save("last", epoch)
                if self._watch.exhausted:
                    waited = self._watch.waited
                    self._progress.note(f"stopped: no better {self._watch.monitor} in {waited} evaluations")
                    break
            if self._best_weights is not None:
                self._trainer.model.load_state_dict(self._best_weights)
            else:
                self._save("best", epoch)
            if self._watch.best is None and self._valid is not None:
                self._progress.note(
                    f"{self._watch.monitor} was never defined on the validation rows: the last weights stay"
                )
        self._trainer.rows_per_second, self._trainer.best = self._meter.rows_per_second, self._watch.best

    def _epoch(self, epoch: int) -> None:
        """Train one epoch, or until patience ends."""
        self._trainer.model.train()
        for number, batch in enumerate(self._loader.epoch(epoch), start=1):
            every = self._trainer.diagnose_every
            diagnosed = every > 0 and (number + (epoch - 1) * len(self._loader)) % every == 0
            self._meter.add(self._step(batch, diagnosed), len(batch))
            if diagnosed:
                self._record(epoch, number, self._diagnosis())
            if number % self._trainer.run.log_every == 0 or number == len(self._loader):
                self._log(epoch, number)
            if number in self._measured_at:
                self._evaluate(epoch, number)
                if self._watch.exhausted:
                    return

    def _evaluate(self, epoch: int, number: int) -> None:
        assert self._valid is not None
        with self._meter.paused():
            metrics = self._trainer.measure(self._valid)
        best = self._watch.improved(self._watch.value(metrics))
        if best:
            self._best_weights = copy.deepcopy(self._trainer.model.state_dict())
            self._save("best", epoch)
        self._progress.evaluated(epoch, number, metrics, best)
        self._record(epoch, number, {"valid": {name: m.to_dict() for name, m in metrics.items()}})

    def _log(self, epoch: int, number: int) -> None:
        losses = self._meter.take_losses()
        self._progress.step(epoch, number, losses, self._meter.rows_per_second)
        record: dict[str, Any] = {"loss": {name: loss if np.isfinite(loss) else None for name, loss in losses.items()}}
        weights = self._trainer.balancer.weights
        if weights is not None:
            record["weight"] = dict(zip(self._names, weights.tolist(), strict=True))
        record |= {"learning_rate": self._step.learning_rate, "rows_per_second": self._meter.rows_per_second}
        self._record(epoch, number, record)

    def _diagnosis(self) -> dict[str, Any]:
        """The norms of the tasks' gradients, and the cosine of each pair."""
        assert self._step.diagnosis is not None
        norms, cosines = (values.tolist() for values in self._step.diagnosis)
        pairs = itertools.combinations(range(len(self._names)), 2)
        return {
            "gradient_norm": dict(zip(self._names, norms, strict=True)),
            "cosine": {f"{self._names[i]}·{self._names[j]}": cosines[i][j] for i, j in pairs},
        }

    def _record(self, epoch: int, number: int, content: Mapping[str, Any]) -> None:
        if self._trainer.folder:
            self._trainer.folder.log({"step": (epoch - 1) * len(self._loader) + number, "epoch": epoch, **content})

    def _save(self, name: str, epoch: int) -> None:
        if self._trainer.folder:
            model = self._trainer.model
            state = {"fingerprint": model.schema.fingerprint, "epoch": epoch, "model": model.state_dict()}
            self._trainer.folder.save_checkpoint(name, state)
