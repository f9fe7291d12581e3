"""One training: the loop, what it logs, and which weights are the best."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from recmtl.data import Loader, Rows
from recmtl.errors import Interrupted, RunError
from recmtl.io.memory import is_out_of_memory
from recmtl.runs.checkpoints import Checkpoints
from recmtl.runs.folder import LAST, RunFolder
from recmtl.runs.logger import MetricLogger
from recmtl.train.distributed import all_gather_object, copy_from_first, largest
from recmtl.train.divergence import DivergenceMonitor
from recmtl.train.gradient_stats import by_name, diagnosis_record
from recmtl.train.meter import Meter
from recmtl.train.progress import TrainingProgress
from recmtl.train.resume import check_conditions, check_same, rng_state, run_fingerprint, set_rng_state
from recmtl.train.signals import StopRequested, StopSignals
from recmtl.train.step import Step

if TYPE_CHECKING:
    from recmtl.train.trainer import Trainer

STEPS_UNHEARD = 8  # after so many, processes tell each other of signals


class TrainingLoop:
    """Trains the model of a trainer over its epochs.

    Args:
        trainer: The model, the balancer and the options.
        loader: The training rows.
        step: Trains on one batch.
        valid: The rows that are measured; ``None`` where there are none.
        start: When the training began, by `time.perf_counter`.
        note: Told of what went wrong, where no progress is shown.
    """

    def __init__(
        self,
        trainer: Trainer,
        loader: Loader,
        step: Step,
        valid: Rows | None,
        start: float,
        note: Callable[[str], None],
    ) -> None:
        self._trainer, self._loader, self._step, self._valid, self._start = trainer, loader, step, valid, start
        self._names = [task.name for task in trainer.model.objectives]
        evaluations = trainer.stopping.evaluations if valid is not None else 0
        evaluations = min(evaluations, len(loader))  # there is no more than one after each step
        self._measured_at = {round(len(loader) * (i + 1) / evaluations) for i in range(evaluations)}
        self._done = 0  # steps
        self._unmeasured = False  # whether the evaluation that follows the last of them was not done
        self._best_weights: dict[str, Tensor] | None = None  # where no run folder holds them
        keep, minutes = trainer.run.keep, trainer.run.checkpoint_minutes
        self._checkpoints = Checkpoints(trainer.folder, keep, minutes) if trainer.folder else None
        self._processes = trainer.processes
        self._stop = StopSignals(trainer.run.folder is not None)
        self._progress = TrainingProgress(trainer.epochs, len(loader), trainer.run.progress and trainer.processes.first)
        self._watch = trainer.watch()
        self._meter = Meter(self._names)
        silent = trainer.processes.first and not trainer.run.progress
        self._soundness = DivergenceMonitor(trainer, step, loader.rows, note if silent else self._progress.note)

    def run(self, saved: Mapping[str, Any] | None = None) -> None:
        """Train, and restore the best weights; without a defined metric the last ones stay.

        Args:
            saved: The state of a checkpoint to go on from.

        Raises:
            Interrupted: A signal asked to stop; there is a checkpoint.
            DivergenceError: To go on is of no use.
            RunError: The checkpoint was made under other conditions.
        """
        if self._processes.size > 1:
            check_same(all_gather_object(self._processes, self._conditions))
        if saved is not None:
            self._restore(saved)
        log = MetricLogger(self._trainer.folder, self._trainer.run.tensorboard, self._done)
        with self._progress, log as self._log, self._stop:
            try:
                self._train()
                self._take_best()
                self._listen()
            except StopRequested:
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
            every = self._trainer.gradient_stats_every
            diagnosed = every > 0 and self._done % every == 0
            losses = self._step(batch, diagnosed)  # [K]
            self._meter.add(losses, len(batch.whole))
            epoch, number = self._position
            self._unmeasured = number in self._measured_at
            if diagnosed:
                self._record_diagnosis(epoch, number, losses)
            if number % self._trainer.run.log_every == 0 or number == len(self._loader):
                self._record_step(epoch, number)
            if self._unmeasured or number == len(self._loader):
                with self._meter.paused():
                    self._soundness.check(self._done)
            if self._unmeasured:
                self._evaluate()
            ended = number == len(self._loader) or self._watch.exhausted
            heard = self._processes.size == 1 or ended or self._done % STEPS_UNHEARD == 0
            late = heard and self._listen()
            self._keep(ended or late)
            if self._watch.exhausted:
                return

    @property
    def _position(self) -> tuple[int, int]:
        """The epoch and the number in it of the last step, both counted from 1."""
        epoch, number = divmod(self._done - 1, len(self._loader))
        return epoch + 1, number + 1

    def _evaluate(self) -> None:
        assert self._valid is not None
        # What all processes do together, all must finish.
        breakable = self._stop.breakable() if self._processes.size == 1 else nullcontext()
        with self._meter.paused(), breakable:
            metrics = self._trainer.measure(self._valid, self._watch.names, together=True)
        best = self._watch.improved(self._watch.value(metrics))
        if best:
            self._save_best()
        epoch, number = self._position
        self._progress.evaluated(epoch, number, metrics, best)
        self._record(epoch, number, {"valid": {name: m.to_dict() for name, m in metrics.items()}})
        self._unmeasured = False

    def _save_best(self) -> None:
        model = self._trainer.model
        if not self._processes.first:
            return
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
        elif self._processes.first:
            self._trainer.load("best")
        copy_from_first(self._processes, self._trainer.model)
        self._trainer.balancer.skipped.copy_(self._step.incidents.skipped)  # over the whole training

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
        self._record(epoch, number, record | ({"skipped": skipped} if skipped else {}))
        self._soundness.look(self._done, losses)

    def _record_diagnosis(self, epoch: int, number: int, losses: Tensor) -> None:
        assert self._step.diagnosis is not None
        balancer = self._trainer.balancer
        values = {"loss": by_name(self._names, losses), "weight": by_name(balancer.labels, balancer.weights)}
        self._record(epoch, number, {"diagnosis": values | diagnosis_record(self._names, self._step.diagnosis)})

    def _record(self, epoch: int, number: int, content: Mapping[str, Any]) -> None:
        self._log.write((epoch - 1) * len(self._loader) + number, epoch, content)

    def _listen(self) -> bool:
        """Say whether the time for a checkpoint has come, and stop here if that was asked for: all processes do.

        Raises:
            Asked: One of them was asked to stop.
        """
        late = self._checkpoints is not None and self._checkpoints.late
        number, heard = largest(self._processes, self._stop.signal or 0, late)
        if number:
            self._stop.signal = Signals(number)
            raise StopRequested
        return bool(heard)

    def _keep(self, due: bool) -> None:
        """Write a checkpoint where one is due."""
        run = self._trainer.run
        regular = run.checkpoint_every is not None and self._done % run.checkpoint_every == 0
        if run.folder and (due or regular):
            with self._meter.paused():
                self._soundness.check_weights(self._done)
                self._log.flush()
                state = self._state()
                if self._checkpoints:
                    self._checkpoints.save(self._done, state, self._watch.best is not None)

    def _leave(self) -> None:
        """Write a checkpoint and end."""
        self._keep(due=True)
        all_gather_object(
            self._processes, self._done
        )  # torchrun ends all as soon as one ends: the first has written by now
        assert self._stop.signal is not None
        assert self._trainer.run.folder is not None
        raise Interrupted(self._stop.signal, Path(self._trainer.run.folder), self._done) from None

    @cached_property
    def _conditions(self) -> dict[str, Any]:
        return run_fingerprint(self._trainer, self._step, self._loader.rows, self._valid)

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
            "generators": all_gather_object(self._processes, rng_state(self._trainer.device)),
            "watch": self._watch.state_dict(),
            "meter": self._meter.state_dict(),
            "soundness": self._soundness.state_dict(),
            "seconds": time.perf_counter() - self._start,
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        folder = RunFolder(self._trainer.run.folder or "")
        try:
            check_conditions(folder.path, saved["conditions"], self._conditions)
            self._trainer.take(saved, folder)
            self._take_over(saved)
            if self._processes.rank < len(saved["generators"]):  # or else it takes part for the first time
                set_rng_state(self._trainer.device, saved["generators"][self._processes.rank])
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, RunError) or is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunError(f"the checkpoint {folder.checkpoint(LAST)} is damaged: {reason}") from error

    def _take_over(self, saved: Mapping[str, Any]) -> None:
        """Take all but the weights and the generators."""
        self._done, self._unmeasured = saved["done"], saved["unmeasured"]
        self._step.load_state_dict(saved["training"])
        self._watch.load_state_dict(saved["watch"])
        self._meter.load_state_dict(saved["meter"])
        self._soundness.load_state_dict(saved["soundness"], self._done)
        self._start -= saved["seconds"]
