"""One training: the loop, what it logs, and which weights are the best."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from recmtl.data import Loader, Rows
from recmtl.train.checkpoints import Checkpoints
from recmtl.train.conditions import check_conditions, conditions, generators, set_generators
from recmtl.train.diagnosis import by_name, diagnosis_record
from recmtl.train.interruption import Asked, Interrupted, Interruption
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
        start: When the training began, by `time.perf_counter`.
    """

    def __init__(self, trainer: Trainer, loader: Loader, step: Step, valid: Rows | None, start: float) -> None:
        self._trainer, self._loader, self._step, self._valid, self._start = trainer, loader, step, valid, start
        self._names = [task.name for task in trainer.model.objectives]
        evaluations = trainer.stopping.evaluations if valid is not None else 0
        evaluations = min(evaluations, len(loader))  # there is no more than one after each step
        self._measured_at = {round(len(loader) * (i + 1) / evaluations) for i in range(evaluations)}
        self._done = 0  # steps
        self._unmeasured = False  # whether the evaluation that follows the last of them was not done
        self._best_weights: dict[str, Tensor] | None = None  # where no run folder holds them
        self._checkpoints = Checkpoints(trainer.folder, trainer.run) if trainer.folder else None
        self._stop = Interruption(trainer.folder is not None)
        self._progress = TrainingProgress(trainer.epochs, len(loader), trainer.run.progress)
        self._watch = trainer.watch()
        self._meter = Meter(self._names)
        self._left_out: set[str] = set()

    def run(self, saved: Mapping[str, Any] | None = None) -> None:
        """Train, and restore the best weights; without a defined metric the last ones stay.

        Args:
            saved: The state of a checkpoint to go on from.

        Raises:
            Interrupted: A signal asked to stop; there is a checkpoint.
            RunError: The checkpoint was made under other conditions.
        """
        if saved is not None:
            self._restore(saved)
        log = Log(self._trainer.folder, self._trainer.run.tensorboard, self._done)
        with self._progress, log as self._log, self._stop:
            try:
                self._train()
                self._take_best()
                self._stop.check()
            except Asked:
                self._leave()
        trainer = self._trainer
        trainer.rows_per_second, trainer.best = self._meter.rows_per_second, self._watch.best
        trainer.seconds = time.perf_counter() - self._start

    def _train(self) -> None:
        if self._unmeasured:
            self._evaluate()
        while self._done < self._trainer.epochs * len(self._loader) and not self._watch.exhausted:
            self._epoch()
        if self._watch.exhausted:
            waited = self._watch.waited
            self._progress.note(f"stopped: no better {self._watch.monitor} in {waited} evaluations")

    def _epoch(self) -> None:
        """Train what is left of an epoch, or until patience ends."""
        self._trainer.model.train()
        done, number = divmod(self._done, len(self._loader))
        for batch in self._loader.epoch(done + 1, number):
            self._done += 1
            every = self._trainer.diagnose_every
            diagnosed = every > 0 and self._done % every == 0
            losses = self._step(batch, diagnosed)  # [K]
            self._meter.add(losses, len(batch))
            epoch, number = self._position
            self._unmeasured = number in self._measured_at
            if diagnosed:
                self._record_diagnosis(epoch, number, losses)
            if number % self._trainer.run.log_every == 0 or number == len(self._loader):
                self._record_step(epoch, number)
            if self._unmeasured:
                self._evaluate()
            self._stop.check()
            self._keep(number == len(self._loader) or self._watch.exhausted)
            if self._watch.exhausted:
                return

    @property
    def _position(self) -> tuple[int, int]:
        """The epoch and the number in it of the last step, both counted from 1."""
        epoch, number = divmod(self._done - 1, len(self._loader))
        return epoch + 1, number + 1

    def _evaluate(self) -> None:
        assert self._valid is not None
        with self._meter.paused(), self._stop.breakable():
            metrics = self._trainer.measure(self._valid, self._watch.names)
        best = self._watch.improved(self._watch.value(metrics))
        if best:
            self._save_best()
        epoch, number = self._position
        self._progress.evaluated(epoch, number, metrics, best)
        self._record(epoch, number, {"valid": {name: m.to_dict() for name, m in metrics.items()}})
        self._unmeasured = False

    def _save_best(self) -> None:
        model = self._trainer.model
        if self._trainer.folder:
            state = {"fingerprint": model.schema.fingerprint, "epoch": self._position[0], "model": model.state_dict()}
            self._trainer.folder.save_best(state)
        else:
            self._best_weights = copy.deepcopy(model.state_dict())

    def _take_best(self) -> None:
        if self._watch.best is None:
            self._save_best()
            if self._valid is not None:
                monitor = self._watch.monitor
                self._progress.note(f"{monitor} was never defined on the validation rows: the last weights stay")
        elif self._best_weights is not None:
            self._trainer.model.load_state_dict(self._best_weights)
        else:
            self._trainer.load("best")

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

    def _keep(self, in_any_case: bool) -> None:
        """Write a checkpoint where one is due."""
        if self._checkpoints and (in_any_case or self._checkpoints.due(self._done)):
            with self._meter.paused():
                self._log.flush()
                self._checkpoints.save(self._done, self._state(), self._watch.best is not None)

    def _leave(self) -> None:
        """Write a checkpoint and end."""
        self._keep(in_any_case=True)
        assert self._stop.signal is not None
        assert self._trainer.folder is not None
        raise Interrupted(self._stop.signal, self._trainer.folder.path, self._done) from None

    @cached_property
    def _conditions(self) -> dict[str, Any]:
        return conditions(self._trainer, self._step, self._loader.rows, self._valid)

    def _state(self) -> dict[str, Any]:
        """All that decides what comes."""
        model = self._trainer.model
        return {
            "fingerprint": model.schema.fingerprint,
            "conditions": self._conditions,
            "done": self._done,
            "unmeasured": self._unmeasured,
            "window": self._loader.window,
            "model": model.state_dict(),
            "training": self._step.state_dict(),
            "generators": generators(self._trainer.device),
            "watch": self._watch.state_dict(),
            "meter": self._meter.state_dict(),
            "left_out": sorted(self._left_out),
            "seconds": time.perf_counter() - self._start,
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        assert self._trainer.folder is not None
        check_conditions(self._trainer.folder.path, saved["conditions"], self._conditions)
        self._trainer.take(saved, self._trainer.folder)
        self._done, self._unmeasured = saved["done"], saved["unmeasured"]
        self._step.load_state_dict(saved["training"])
        self._watch.load_state_dict(saved["watch"])
        self._meter.load_state_dict(saved["meter"])
        self._left_out = set(saved["left_out"])
        self._start -= saved["seconds"]
        set_generators(self._trainer.device, saved["generators"])
