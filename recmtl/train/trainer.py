"""The trainer: fits a model, evaluates it, and predicts with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from recmtl.balance import Balancer, Sum
from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.calibration import Calibration
from recmtl.callbacks import Callback, FitResult
from recmtl.callbacks.callback_list import checked_callbacks
from recmtl.data import DataError, Rows, encode_rows
from recmtl.data.preparation.part_work import Progress
from recmtl.data.sources.open import Data
from recmtl.errors import RunError
from recmtl.evaluate import Metrics, table
from recmtl.features.embedding_table import spread_tables
from recmtl.io.csv_records import BadRows
from recmtl.io.machine import explain_oom
from recmtl.models import RankingModel
from recmtl.runs.checkpoints import Checkpoints
from recmtl.runs.folder import BEST, RunFolder
from recmtl.schema import Thinning
from recmtl.schema.text_format import TextFormat
from recmtl.train.artifacts import finish_run
from recmtl.train.calibrating import (
    Methods,
    calibrate_after_training,
    calibrate_model,
    check_methods,
    save_calibration,
)
from recmtl.train.device import check_precision, trained_alone
from recmtl.train.loop import TrainingLoop
from recmtl.train.options import EarlyStopping, Optimization, RunConfig, ShardTables
from recmtl.train.predictor import Predictor
from recmtl.train.save_run import save_run
from recmtl.train.setup import TrainingSetup, check_same, process_fingerprint
from recmtl.train.trained_run import BalancerState, TrainedRun

INTEGERS = {pa.int64(): pd.Int64Dtype()}  # keys with missing values stay integers


class Trainer:
    """Trains a ranking model with a balanced gradient.

    If `torch.distributed` is initialized, its processes share each batch: each of them builds the same trainer and
    calls `fit`, `finish`, `evaluate`, `predict` or `calibrate` with the same rows. The first one writes the run folder.

    Args:
        model: The model. The balancer becomes its ``fork``.
        balancer: Turns the losses into gradients; by default the one that the model was trained or loaded with, else
            ``Sum``.
        epochs: The maximum number of passes over the training rows.
        gradient_stats_every: Steps between two measurements of the tasks' gradients on the shared tensors: their norms
            and pairwise cosines, beside losses and weights, into the log. 0 measures nothing; training is the same.
        balance_domains: Make each domain of a task an objective of the balancer: the losses of the schema's domains,
            named ``ctr@US``, add up to that of the task. A step costs as much as with so many more tasks.
        optimization: Optimizer, schedule, precision and clipping.
        stopping: When training ends early.
        run: The run folder, the device, the seed, and what is logged.
        init_from: The folder of a finished run with whose best weights training starts, and with the states of its
            balancer and its optimizers. The model's schema is the run's, or extends it (`prepare(…, extend=run)`): the
            model then predicts what the run did, before its first step.
        balancer_state: With `init_from`, ``keep`` the state of the balancer, which must be of the same method and for
            the same tasks, or begin with a ``fresh`` one.
        callbacks: What is called while the model trains, such as loggers: see `Callback`. The run folder's
            `metrics.jsonl` and, if it is installed, TensorBoard are two of them that need not be named.
        calibration: Calibrate the trained model on the validation rows: ``isotonic``, ``platt`` or ``temperature``, or
            one of them for each task that is named. A task that these rows cannot calibrate gets a note.
        shard_tables: Spread the rows of embedding tables of more than a million elements over the processes, each of
            which holds and trains its part; ``None`` spreads those that would take more than half of the memory that is
            free for each process, with their optimizer's state. The training is the same for all of them.
            ``torchrec`` spreads them by TorchRec, which is the extra ``torchrec``: its kernels look rows up, and its
            messages carry their ids.

    Raises:
        RunError: The run to start from is unfinished, does not fit the model, or was balanced otherwise.
        ValueError: The model is not built or in half precision, an option is out of range, the monitor names nothing
            that is measured, the device cannot be used (with this precision), the tasks share nothing and the balancer
            is not `Sum`, or another balancer would replace rotations that the model was trained with; or domains are to
            be balanced, and the schema names none, or the balancer is one of heads.

    Attributes:
        setup: Model, balancer, options, processes, device and run folder.
        recipe: Returns the recipe by which it was built; ``None`` if it was made in Python.
        result: The result of the last fit: the best value of the monitored metric, seconds, rows per second, and how
            often something was left out for not being finite.
    """

    def __init__(
        self,
        model: RankingModel,
        balancer: Balancer | None = None,
        epochs: int = 30,
        gradient_stats_every: int = 0,
        balance_domains: bool = False,
        optimization: Optimization = Optimization(),
        stopping: EarlyStopping = EarlyStopping(),
        run: RunConfig = RunConfig(),
        init_from: str | Path | None = None,
        balancer_state: BalancerState = "keep",
        callbacks: Sequence[Callback] = (),
        calibration: Methods | None = None,
        shard_tables: ShardTables = None,
    ) -> None:
        check_methods(calibration)
        start = None if init_from is None else TrainedRun.open(init_from)
        if balancer is None:
            own = fork if isinstance(fork := getattr(model, "fork", None), Balancer) else Sum()
            balancer = own if start is None else start.balancer()
        self.setup = TrainingSetup.build(
            model, balancer, epochs, gradient_stats_every, balance_domains, optimization, stopping, run, shard_tables
        )
        if start is not None:
            start.load_weights(model, balancer_state)
            self.setup = replace(self.setup, start=start)
        self.setup = replace(self.setup, callbacks=checked_callbacks(callbacks), calibration=calibration)
        self.result = FitResult()
        self.recipe: Callable[[], str] | None = None

    def __repr__(self) -> str:
        setup, names = self.setup, (type(self.model).__name__, type(self.balancer).__name__)
        folder = f", folder={str(setup.run.folder)!r}" if setup.run.folder else ""
        return f"Trainer({', '.join(names)}, epochs={setup.epochs}, device={str(setup.device)!r}{folder})"

    @property
    def model(self) -> RankingModel:
        """The model."""
        return self.setup.model

    @property
    def balancer(self) -> Balancer:
        """The balancer."""
        return self.setup.balancer

    @property
    def folder(self) -> RunFolder | None:
        """The run folder, if this process writes one."""
        return self.setup.folder

    @property
    def predictor(self) -> Predictor:
        """The predictor of prepared rows: `predict`, `outputs` and `measure` return objects rather than tables."""
        return Predictor(self.setup, self.setup.processes)

    @property
    def history(self) -> pd.DataFrame:
        """What the last fit logged, one row per record: step, epoch, `loss/TASK`, `weight/TASK`, `valid/TASK/METRIC`.

        The names of the columns are those of the curves in TensorBoard.
        """
        return pd.json_normalize(list(self.result.records), sep="/")

    def fit(
        self,
        train: Rows,
        valid: Rows | None = None,
        resume: bool = False,
        note: Callable[[str], None] = warnings.warn,
    ) -> Trainer:
        """Train, and load the best weights.

        A run folder gets checkpoints: one at the end of each epoch, and one when SIGINT, SIGTERM or SIGHUP ends the
        training after the current step.

        Args:
            train: The training rows.
            valid: The validation rows, which decide which weights are best and when to stop; without them the last
                weights stay.
            resume: Resume from the last intact checkpoint of the run folder, if there is one: on a CPU, the result is
                the same as without the interruption. Rows and options must be the same.
            note: Called with a line for each damaged checkpoint or log, and, unless progress is shown, for each value
                that is not finite.

        Raises:
            DataError: There are no training rows, or with another schema, or the run folder cannot be written.
            ValueError: The optimizer refuses its options, or the precision is slower than fp32 on this device.
            RunError: The run folder holds another run; or, to resume, there is none, all of its checkpoints are
                damaged, or it was begun with other rows or options; or another process is at work in it. Or another
                thread trains the model, or no weight of it requires a gradient.
            CallbackError: A callback raised; the training can be resumed from the run folder.
            DivergenceError: Weights or too many steps were not finite, or the loss is far higher than at the start.
            OutOfMemoryError: The rows, or a step, do not fit into memory. It is a `MemoryError`.
            Interrupted: A signal ended the training. It is a `KeyboardInterrupt`.
        """
        self.setup.check_rows(train)
        if len(train) == 0:
            raise DataError("there are no training rows")
        if resume and self.setup.run.folder is None:
            raise RunError("there is no run folder to go on in: give `run=RunConfig(folder=…)`")
        with self.setup.folder_held(), trained_alone(self.model, self.setup.device, self.setup.run.threads):
            self.result = self._fit(train, valid if valid is not None and len(valid) else None, resume, note)
        return self

    def _fit(self, train: Rows, valid: Rows | None, resume: bool, note: Callable[[str], None]) -> FitResult:
        setup = self.setup
        check_same(setup.processes.all_gather_object(process_fingerprint(setup, resume)))
        check_precision(setup.device, setup.optimization.precision, setup.processes)
        saved = Checkpoints(self.folder, processes=setup.processes).restore(note) if resume else None
        if saved is None:
            setup.processes.in_first(lambda: self.folder.check_free(resume) if self.folder else None)
        with torch.random.fork_rng(devices=[setup.device] if setup.device.type == "cuda" else []):
            torch.manual_seed((setup.processes.rank << 32) + setup.run.seed)
            setup.model.calibration = None
            with explain_oom(f"training on batches of {setup.batch_size(train):,} rows", "lower `batch_size`"):
                result = TrainingLoop(setup, train, valid, note, saved).run()
        if setup.calibration is not None or setup.start is not None:
            calibrate_after_training(setup, self.predictor, valid, note)
        return result

    def evaluate(
        self, data: Rows | Data, bad_rows: BadRows = "error", thinning: Thinning | None = None
    ) -> pd.DataFrame:
        """Measure the model: one row per task, with all rates of a funnel; NaN and a reason if undefined.

        Args:
            data: Prepared rows, or raw ones with labels in any form that `prepare` takes.
            bad_rows: What becomes of raw rows that do not parse, as in `prepare`; a warning counts those left out.
            thinning: How the files of raw rows were thinned; ``None`` if they were not.
        """
        rows = data if isinstance(data, Rows) else self.encode(data, bad_rows=bad_rows, thinning=thinning)
        return table(self.predictor.measure(rows))

    def calibrate(self, data: Rows | Data, method: Methods = "isotonic") -> pd.DataFrame:
        """Calibrate the model on labelled rows that it was not trained on: all that predicts takes it from then on.

        A calibration that it had is replaced. In a run folder of the trainer it is written by `finish` or, if the run
        is finished, at once, with the predictions and metrics there.

        Args:
            data: Prepared rows, or raw ones in any form that `prepare` takes.
            method: ``isotonic``, ``platt`` or ``temperature``, for all tasks with probabilities (a multi-class task
                takes ``temperature`` in any case), or the method of each task that is to be calibrated.

        Returns:
            How well the tasks were and are calibrated on these rows, which flatters: see `calibration_table`. The
            column `method` says what calibrates each task; it is missing for a rate that follows from others.

        Raises:
            ValueError: A method or a task is unknown, or a task cannot be calibrated by this method.
            DataError: The rows of a task are none, too few or of one class; the model is then as before.
        """
        rows = data if isinstance(data, Rows) else self.encode(data)
        found = calibrate_model(self.setup, self.predictor, rows, method)
        if self.folder and self.folder.finished and self.model.calibration:
            save_calibration(self.folder, self.model.calibration)
        return found

    def predict(self, data: Rows | Data, bad_rows: BadRows = "error") -> pd.DataFrame:
        """Predict the probabilities (of a regression: the values) of every task, beside the keys of the rows.

        Of several processes each returns its share of the rows.

        Args:
            data: Prepared rows, or raw ones in any form that `prepare` takes; these need no labels.
            bad_rows: What becomes of raw rows that do not parse, as in `prepare`; a warning counts those left out.
        """
        schema = self.model.schema
        parts = [data] if isinstance(data, Rows) else encode_rows(schema, data, labelled=False, bad_rows=bad_rows)
        unlabelled: dict[str, Any] = {"labels": {}, "weight": None, "sampling_weight": None, "task_weights": {}}
        unlabelled["uncalibrated"] = {}
        predicted = [replace(self.predictor.predict(rows), **unlabelled).table() for rows in parts]
        frame: pd.DataFrame = pa.concat_tables(predicted).to_pandas(types_mapper=INTEGERS.get)
        return frame

    def encode(
        self,
        data: Data,
        progress: Progress = lambda what, rows: None,
        bad_rows: BadRows = "error",
        note: Callable[[str], None] = warnings.warn,
        thinning: Thinning | None = None,
        text: TextFormat | None = None,
    ) -> Rows:
        """Encode raw rows with labels like the training rows.

        Args:
            data: Rows in any form that `prepare` takes.
            progress: Called with the name of the work and the number of rows just read.
            bad_rows: What becomes of rows that do not parse, as in `prepare`.
            note: Called with a line about the rows that were left out.
            thinning: How these files were thinned; ``None`` if they were not.
            text: How text stands for values in these files; ``None`` reads them like the training rows.
        """
        parts = list(encode_rows(self.model.schema, data, True, progress, bad_rows, note, thinning, text))
        table = pa.concat_tables([part.table for part in parts])
        return Rows(self.model.schema, table, thinning=parts[0].thinning)

    def finish(self, splits: Mapping[str, Rows]) -> dict[str, dict[str, Metrics]]:
        """Complete the run folder: measure the rows, write predictions, plots and at last `metrics.json`.

        Reports and comparisons take finished runs. Without a run folder this only measures.

        Args:
            splits: The rows to measure, by the name under which `metrics.json` holds their metrics.
        """
        return finish_run(self.setup, self.result, splits)

    def save(self, path: str | Path) -> None:
        """Write the model, the balancer and the optimizers' states as a finished run folder, for `load_run`.

        So any run can be continued, exported and predicted with. Its recipe holds the arguments with which model,
        balancer and trainer were made: numbers, text, lists, and classes and functions of modules, also in
        `functools.partial`. Modules of your own must be trusted to load it: ``load_run(path, trust="my_models")``.

        Args:
            path: The folder to write, which must not hold a run.

        Raises:
            RunError: A recipe cannot say what an argument is, such as a lambda, or the folder holds a run.
        """
        save_run(self.setup, self.result, self.recipe() if self.recipe else None, path)

    def load(self, name: str = BEST, folder: RunFolder | None = None) -> Trainer:
        """Load the weights of a checkpoint, ``best`` with the run's calibration or ``last``.

        Those of ``best`` were measured, and are an average of weights if `Optimization.ema` is not 0. Those of ``last``
        are the weights from which training goes on, not their average. Several processes with tables that are spread
        over them all call it.

        Args:
            name: The checkpoint.
            folder: The run folder; ``None`` takes the trainer's own.

        Raises:
            RunError: There is none, it is damaged, or it does not fit the schema or the model.
        """
        folder = folder or self.folder
        if folder is None:
            raise RunError("there is no run folder to load from: give `run=RunConfig(folder=…)`")
        processes = self.setup.processes if spread_tables(self.model) else SINGLE_PROCESS
        self.setup.load_weights(folder.load_checkpoint(name, self.setup.device, processes), folder.path)
        self.model.calibration = Calibration.read(folder) if name == BEST else None
        return self

    def fold(self) -> RankingModel:
        """Return a copy of the model for export, without the balancer and in evaluation mode.

        It predicts the same: a rotation is folded into the heads.
        """
        return self.model.fold().eval()
