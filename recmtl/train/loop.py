"""The training loop: steps, evaluations, logging, checkpoints, and the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from signal import Signals
from typing import Any

from torch import Tensor

from recmtl.callbacks import FitResult, TrainingContext
from recmtl.callbacks.callback_list import CallbackList
from recmtl.callbacks.records import logged
from recmtl.data import Rows
from recmtl.errors import CallbackError, Interrupted, RunError
from recmtl.features.saved_tables import spread_weights, whole_weights
from recmtl.io.machine import is_out_of_memory
from recmtl.runs.checkpoint_file import TABLES
from recmtl.runs.checkpoints import Checkpoints, save_checkpoint
from recmtl.runs.folder import LAST, OPTIMIZERS, RunFolder
from recmtl.train.best_weights import BestWeights
from recmtl.train.continuation import load_optimizers
from recmtl.train.describe import describe_setup
from recmtl.train.device import rng_state, set_rng_state
from recmtl.train.divergence import DivergenceMonitor
from recmtl.train.gradient_stats import diagnosis
from recmtl.train.monitor import LossMeter, has_measured, host_copies, named_values, step_record
from recmtl.train.optimizers import on_host
from recmtl.train.predictor import Predictor
from recmtl.train.progress import TrainingProgress
from recmtl.train.setup import TrainingSetup, check_same, check_unchanged, run_fingerprint
from recmtl.train.signals import StopRequested, StopSignals
from recmtl.train.step import Step

SIGNAL_EVERY = 8  # steps after which several processes tell each other of signals


class TrainingLoop:
    """Trains a model over its epochs.

    Args:
        setup: The setup.
        train: The training rows.
        valid: The validation rows; ``None`` measures nothing.
        note: Called with a line for each problem, unless progress is shown.
        saved: The state of a checkpoint to resume from, which must fit setup and rows.
    """

    def __init__(
        self,
        setup: TrainingSetup,
        train: Rows,
        valid: Rows | None,
        note: Callable[[str], None],
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        self._start = time.perf_counter()
        self._setup, self._valid, self._processes = setup, valid, setup.processes
        first, shown = setup.processes.first, setup.run.progress
        self._progress = TrainingProgress(first and shown)
        self._progress.note(*describe_setup(setup, train, valid))
        note = note if first and not shown else self._progress.note
        self._loader = setup.open_loader(train, note, saved["window"] if saved else None)
        setup.broadcast_model()
        self._step = Step(setup.model, setup.balancer, setup.optimization, setup.epochs * len(self._loader))
        if setup.folder and saved is None:
            setup.folder.create(setup.model.schema, setup.start.record() if setup.start else None)
        evaluations = min(setup.stopping.evaluations, len(self._loader)) if valid is not None else 0
        self._evaluate_after = {round(len(self._loader) * (i + 1) / evaluations) for i in range(evaluations)}
        self._done = 0  # steps
        self._evaluation_due = False  # after the last of them
        self._best, self._by_objective = BestWeights(setup), setup.model.task_losses.by_objective
        self._records = setup.folder.records() if setup.folder and saved else []
        self._stopped: str | None = None  # why training ended early
        self._failure: str | None = None  # of a callback in any process
        self._run_path = Path(setup.run.folder) if setup.run.folder else None
        self._callbacks = CallbackList.of_process(setup.callbacks, first, self._run_path, setup.run.tensorboard)
        self._checkpoints = Checkpoints(setup.folder, setup.run.keep, setup.run.checkpoint_minutes, setup.processes)
        self._stop = StopSignals(setup.run.folder is not None)
        self._predictor = Predictor(setup, setup.processes)
        self._monitor, self._meter = setup.metric_monitor(), LossMeter(setup.model.loss_names)
        counter, optimizer, skipped = self._step.nonfinite, self._step.optimizers[0], self._step.skipped_in_a_row
        self._divergence = DivergenceMonitor(setup, counter, optimizer, skipped, note)
        self._fingerprint = run_fingerprint(setup, optimizer, self._loader.rows, valid)
        check_same(setup.processes.all_gather_object(self._fingerprint))
        if saved is not None:
            self._restore(saved)
            self._callbacks.load_state_dict(saved["callbacks"] if first else [], note)
        elif setup.start:
            load_optimizers(setup.start, self._step, setup, note)

    def run(self) -> FitResult:
        """Train, and load the best weights; the last weights stay if no validation row has a label."""
        with self._progress, self._stop, closing(self._callbacks):
            self._progress.start(self._setup.epochs, len(self._loader), self._done)
            try:
                self._call("on_fit_start")
                self._exchange_signals()
                self._train()
                self._load_best()
                self._exchange_signals()
                self._call("on_fit_end", self._result())
                self._exchange_signals()
            except StopRequested:
                self._stop_here()
        if self._callbacks.failure:  # in `close`
            raise CallbackError(self._callbacks.failure, self._done, self._run_path) from self._callbacks.cause
        return self._result()

    def _result(self) -> FitResult:
        setup, window, step = self._setup, self._loader.window, self._step
        return FitResult(
            best=self._monitor.best_of_all,
            seconds=time.perf_counter() - self._start,
            rows_per_second=self._meter.rows_per_second,
            batch_size=self._loader.batch_size,
            window=window if window < len(self._loader.rows) else None,
            skipped=step.nonfinite.skipped_steps(),
            records=tuple(self._records),
            stopped=self._stopped,
            optimizers={} if setup.run.folder else on_host({**step.optimizer_states(), TABLES: step.spread_states()}),
        )

    def _train(self) -> None:
        if self._evaluation_due:
            self._evaluate()
        while self._done < self._setup.epochs * len(self._loader) and self._stopped is None:
            self._epoch()
        if self._stopped is not None:
            self._progress.note(f"stopped: {self._stopped}")

    def _epoch(self) -> None:
        """Train the rest of an epoch, or until the patience runs out."""
        self._setup.model.train()
        done, start = divmod(self._done, len(self._loader))
        for batch in self._loader.epoch(done + 1, start):
            self._done += 1
            with_stats = (every := self._setup.gradient_stats_every) > 0 and self._done % every == 0
            losses = self._step(batch, with_stats)  # [K]
            self._meter.update(losses, batch.total_rows)
            if self._done == 1:
                self._divergence.first_losses = losses.clone()
            if self._setup.balancer.needs_epochs and self._done % len(self._loader) == 0:
                self._setup.balancer.end_epoch()
            self._after_step(losses, with_stats)
            if self._stopped is not None:
                return

    def _after_step(self, losses: Tensor, with_stats: bool) -> None:
        """Log, evaluate and save what is due after a step."""
        epoch, number = self._position
        last = number == len(self._loader)
        self._evaluation_due = number in self._evaluate_after
        if with_stats:
            assert self._step.gradient_stats is not None
            found = diagnosis(self._setup.model, self._setup.balancer, losses, self._step.gradient_stats)
            self._record({"diagnosis": found})
        show = self._progress.due(number)
        if number % self._setup.run.log_every == 0 or last:
            self._record_step()
        elif show:
            losses_shown = self._by_objective(self._meter.means())
            self._progress.show_step(epoch, number, losses_shown, self._meter.rows_per_second)
        if self._evaluation_due or last:
            with self._meter.paused():
                self._divergence.check_weights(self._done)
        if last:
            self._divergence.check_skipped(self._done, len(self._loader), epoch == self._setup.epochs)
        if self._evaluation_due:
            self._evaluate()
        if last:
            self._call("on_epoch_end")
        ended = last or self._monitor.exhausted
        exchange = self._processes.size == 1 or ended or self._done % SIGNAL_EVERY == 0
        late = exchange and self._exchange_signals()
        if self._stopped is not None and self._valid is not None and number not in self._evaluate_after:
            self._evaluation_due = True
            self._evaluate()
        if self._stopped is not None:
            self._divergence.check_skipped(self._done, len(self._loader), ended=True)
        self._save_if_due(ended or late or self._stopped is not None)

    def _call(self, method: str, *arguments: Any) -> None:
        """Call a method of the callbacks, which does not count in the rows per second."""
        with self._meter.paused():
            self._callbacks.call(method, self._context, *arguments)

    @property
    def _context(self) -> TrainingContext:
        return TrainingContext(
            model=self._setup.model,
            options=self._fingerprint,
            folder=self._run_path,
            epoch=self._position[0],
            epochs=self._setup.epochs,
            step=self._done,
            steps=self._setup.epochs * len(self._loader),
            monitor=self._monitor.monitor,
            higher_is_better=self._monitor.higher_is_better,
            value=self._monitor.last,
            best=self._monitor.best_of_all,
            records=self._records,
            measure=Predictor(self._setup).measure,
            log=lambda content: self._record(logged(content)),
            stop=self._callbacks.stop,
        )

    @property
    def _position(self) -> tuple[int, int]:
        """The epoch and the step in it of the last step, both counted from 1; epoch 0 before the first."""
        epoch, number = divmod(self._done - 1, len(self._loader))
        return epoch + 1, number + 1

    def _evaluate(self) -> None:
        assert self._valid is not None
        # A collective must be finished by all processes: one alone may be interrupted.
        interruptible = self._stop.interruptible() if self._processes.size == 1 else nullcontext()
        average = self._step.average
        with average.in_place() if average else nullcontext():
            with self._meter.paused(), interruptible:
                metrics = self._predictor.measure(self._valid, self._monitor.names)
            monitor = self._monitor
            best = monitor.update_by(metrics)
            if best:
                self._best.save(self._position[0])
            self._progress.show_metrics(*self._position, metrics, best)
            self._record({"valid": {name: m.to_dict() for name, m in metrics.items()}})
            self._evaluation_due = False
            self._call("on_evaluation", metrics)
        if monitor.exhausted:
            self._stopped = f"no better {monitor.monitor} in {monitor.waited} evaluations"

    def _load_best(self) -> None:
        setup, step = self._setup, self._step
        if not self._monitor.decided:
            if has_measured(self._records, self._monitor.tasks):  # but predictions were not finite
                self._divergence.check_skipped(self._done, 1, ended=True)
            if step.average:
                step.average.replace_weights()
            self._best.save(self._position[0])
        else:
            self._best.load()
        if self._valid is not None and self._monitor.note:
            self._progress.note(self._monitor.note)
        setup.broadcast_model()
        setup.balancer.skipped.copy_(self._step.nonfinite.skipped)  # of all steps, not those up to the best
        if setup.run.folder and setup.run.optimizers:
            save_checkpoint(setup.folder, OPTIMIZERS, step.optimizer_states(), step.spread_states(), setup.processes)

    def _record_step(self) -> None:
        weights, learning_rate = self._setup.balancer.weights, self._step.learning_rate
        of_device = {"mean": self._meter.mean, "weight": weights, "learning_rate": learning_rate}
        read = host_copies(of_device | self._divergence.to_read())
        by_loss, rate = self._meter.means(read["mean"]), self._meter.rows_per_second
        losses = self._by_objective(by_loss)
        self._meter.reset()
        self._progress.show_step(*self._position, losses, rate)
        by_domain = by_loss if self._setup.balance_domains else {}
        by_task = named_values(self._setup.balancer.labels, read["weight"])
        record = step_record(losses, by_domain, by_task, self._step.nonfinite.skipped_steps(read))
        self._record(record | {"learning_rate": float(read["learning_rate"]), "rows_per_second": rate})
        self._divergence.check(self._done, losses, read)

    def _record(self, content: Mapping[str, Any]) -> None:
        self._records.append({"step": self._done, "epoch": self._position[0], **content})
        self._call("on_record", self._records[-1])

    def _exchange_signals(self) -> bool:
        """Return whether a checkpoint is due by time in any process, and learn whether a callback asked to stop.

        Raises:
            StopRequested: A process got a signal, or a callback failed.
        """
        late, callbacks = self._checkpoints.late, self._callbacks
        mine = (self._stop.signal or 0, late, callbacks.stop_reason, callbacks.failure)
        signals, lates, reasons, failures = zip(*self._processes.all_gather_object(mine), strict=True)
        self._stopped, self._failure = self._stopped or reasons[0], failures[0]  # the first process has the callbacks
        if self._failure or (any(signals) and self._done):
            self._stop.signal = Signals(max(signals)) if any(signals) else None
            raise StopRequested
        return any(lates)

    def _save_if_due(self, due: bool) -> None:
        run = self._setup.run
        regular = run.checkpoint_every is not None and self._done % run.checkpoint_every == 0
        if run.folder and (due or regular):
            with self._meter.paused():
                self._divergence.check_weights(self._done)
                tables = spread_weights(self._setup.model) | self._step.spread_states()
                self._checkpoints.save(self._done, self._state(), tables, self._monitor.decided)
            self._call("on_checkpoint")

    def _stop_here(self) -> None:
        """Write a checkpoint, and raise a `CallbackError` or `Interrupted`."""
        self._save_if_due(due=self._done > 0)
        if self._callbacks.failure and not self._failure:
            self._progress.note(self._callbacks.failure)
        # torchrun ends all processes as soon as one ends: wait until the first has written.
        self._processes.all_gather_object(self._done)
        if self._failure:
            raise CallbackError(self._failure, self._done, self._run_path) from self._callbacks.cause
        assert self._stop.signal is not None
        assert self._run_path is not None
        raise Interrupted(self._stop.signal, self._run_path, self._done) from None

    def _state(self) -> dict[str, Any]:
        """Return all that the rest of the training depends on."""
        model = self._setup.model
        return {
            "fingerprint": model.schema.fingerprint,
            "conditions": self._fingerprint,
            "done": self._done,
            "unmeasured": self._evaluation_due,
            "stopped": self._stopped,
            "callbacks": self._callbacks.state_dict(),
            "window": self._loader.window,
            "model": whole_weights(model),
            "training": self._step.state_dict(),
            "generators": self._processes.all_gather_object(rng_state(self._setup.device)),
            "watch": self._monitor.state_dict(),
            "meter": self._meter.state_dict(),
            "soundness": self._divergence.state_dict(),
            "seconds": time.perf_counter() - self._start,
        }

    def _restore(self, saved: Mapping[str, Any]) -> None:
        folder = RunFolder(self._setup.run.folder or "")
        try:
            check_unchanged(folder.path, saved["conditions"], self._fingerprint)
            self._setup.load_weights(saved, folder.path)
            self._load_state(saved)
            if self._processes.rank < len(saved["generators"]):  # or there were fewer processes
                set_rng_state(self._setup.device, saved["generators"][self._processes.rank])
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, RunError) or is_out_of_memory(error):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RunError(f"the checkpoint {folder.checkpoint(LAST)} is damaged: {reason}") from error

    def _load_state(self, saved: Mapping[str, Any]) -> None:
        """Load all but the weights and the random number generators."""
        self._done, self._evaluation_due, self._stopped = saved["done"], saved["unmeasured"], saved["stopped"]
        self._step.load_state_dict(saved["training"], saved.get(TABLES))
        self._monitor.load_state_dict(saved["watch"])
        self._meter.load_state_dict(saved["meter"])
        self._divergence.load_state_dict(saved["soundness"], self._done)
        self._start -= saved["seconds"]
