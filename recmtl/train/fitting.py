"""One training: the loop, what it logs, and which weights are the best."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from recmtl.data import Loader, Rows
from recmtl.train.diagnosis import by_name, diagnosis_record
from recmtl.train.log import Log
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
        self._best_weights: dict[str, Tensor] | None = None  # where no run folder holds them
        self._progress = TrainingProgress(trainer.epochs, len(loader), trainer.run.progress)
        self._watch = trainer.watch()
        self._meter = Meter(self._names)
        self._log = Log(trainer.folder, trainer.run.tensorboard)
        self._left_out: set[str] = set()

    def run(self) -> None:
        """Train, and restore the best weights; without a defined metric the last ones stay."""
        with self._progress, self._log:
            for epoch in range(1, self._trainer.epochs + 1):
                self._epoch(epoch)
                self._save("last", epoch)
                if self._watch.exhausted:
                    waited = self._watch.waited
                    self._progress.note(f"stopped: no better {self._watch.monitor} in {waited} evaluations")
                    break
            if self._watch.best is None:
                self._save("best", epoch)
            elif self._best_weights is not None:
                self._trainer.model.load_state_dict(self._best_weights)
            else:
                self._trainer.load("best")
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
            losses = self._step(batch, diagnosed)  # [K]
            self._meter.add(losses, len(batch))
            if diagnosed:
                self._record_diagnosis(epoch, number, losses)
            if number % self._trainer.run.log_every == 0 or number == len(self._loader):
                self._record_step(epoch, number)
            if number in self._measured_at:
                self._evaluate(epoch, number)
                if self._watch.exhausted:
                    return

    def _evaluate(self, epoch: int, number: int) -> None:
        assert self._valid is not None
        with self._meter.paused():
            metrics = self._trainer.measure(self._valid, self._watch.names)
        best = self._watch.improved(self._watch.value(metrics))
        if best:
            self._save("best", epoch)
            if self._trainer.folder is None:
                self._best_weights = copy.deepcopy(self._trainer.model.state_dict())
        self._progress.evaluated(epoch, number, metrics, best)
        self._record(epoch, number, {"valid": {name: m.to_dict() for name, m in metrics.items()}})

    def _record_step(self, epoch: int, number: int) -> None:
        losses = self._meter.take_losses()
        self._progress.step(epoch, number, losses, self._meter.rows_per_second)
        record: dict[str, Any] = {
            "loss": {name: loss if np.isfinite(loss) else None for name, loss in losses.items()},
            "weight": by_name(self._trainer.balancer.labels, self._trainer.balancer.weights),
            "learning_rate": self._step.learning_rate,
            "rows_per_second": self._meter.rows_per_second,
        }
        skipped = self._trainer.skipped
        if skipped:
            record["skipped"] = skipped
            self._report_skipped(skipped, f"epoch {epoch} step {number}")
        self._record(epoch, number, record)

    def _report_skipped(self, skipped: Mapping[str, int], where: str) -> None:
        """Say once for each task that something of it was not finite."""
        new = [name for name in skipped if name not in self._left_out]
        if new:
            self._progress.note(f"{where}: left out for not being finite: {', '.join(new)}")
        self._left_out.update(new)

    def _record_diagnosis(self, epoch: int, number: int, losses: Tensor) -> None:
        assert self._step.diagnosis is not None
        balancer = self._trainer.balancer
        values = {"loss": by_name(self._names, losses), "weight": by_name(balancer.labels, balancer.weights)}
        self._record(epoch, number, {"diagnosis": values | diagnosis_record(self._names, self._step.diagnosis)})

    def _record(self, epoch: int, number: int, content: Mapping[str, Any]) -> None:
        self._log.write((epoch - 1) * len(self._loader) + number, epoch, content)

    def _save(self, name: str, epoch: int) -> None:
        if self._trainer.folder:
            model = self._trainer.model
            state = {"fingerprint": model.schema.fingerprint, "epoch": epoch, "model": model.state_dict()}
            self._trainer.folder.save_checkpoint(name, state)
