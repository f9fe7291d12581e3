"""The setup of a training: its parts, the checks on them, and what identifies it when it resumes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch.optim import Optimizer

from recmtl.balance import Balancer, ProcessGroup, RepresentationBalancer, Sum
from recmtl.balance.distributed import all_processes
from recmtl.calibration import Method
from recmtl.callbacks import Callback
from recmtl.data import DataError, Loader, Rows
from recmtl.errors import RunError
from recmtl.evaluate import own_metrics
from recmtl.features.embedding_table import spread_tables
from recmtl.features.saved_tables import load_model
from recmtl.io.machine import explain_oom
from recmtl.models import RankingModel
from recmtl.models.base import IdentityFork
from recmtl.runs.folder import RunFolder
from recmtl.schema import Schema, Task
from recmtl.train.device import check_gpu_options, check_model, device_name, open_device
from recmtl.train.distributed import shard_tables as spread_over
from recmtl.train.distributed import smallest_window
from recmtl.train.monitor import MetricMonitor, few_rows_note, label_parts
from recmtl.train.options import EarlyStopping, Optimization, RunConfig, ShardTables
from recmtl.train.trained_run import TrainedRun

OWNERS: weakref.WeakKeyDictionary[Balancer, weakref.ref[RankingModel]] = weakref.WeakKeyDictionary()
FINGERPRINT_LETTERS = 16
# The default batch size from a number of training rows on.
BATCH_SIZES: Mapping[int, int] = {
    0: 32,
    1_000: 64,
    4_000: 128,
    10_000: 256,
    40_000: 512,
    100_000: 1024,
    250_000: 2048,
}


@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """Everything a training needs beside its rows. Nothing in it is replaced while it runs.

    Args:
        model: The model, on the device, with the balancer as its fork.
        balancer: Turns losses into gradients.
        epochs: The maximum number of epochs.
        gradient_stats_every: Steps between two measurements of the task gradients; 0 measures none.
        balance_domains: Whether each domain of a task is an objective of the balancer.
        optimization: Optimizer, schedule, precision and clipping.
        stopping: When training ends early.
        run: The run folder, the device, the seed, and what is logged.
        processes: The processes that share each batch.
        device: The device of this process.
        folder: The run folder; ``None`` if there is none or another process writes it.
        calibration: How the model is calibrated when it is trained; ``None`` does not.
        start: The run whose optimizers' states training starts with; ``None`` starts with new ones.
        callbacks: What is called while it trains, beside `metrics.jsonl` and TensorBoard in the run folder.
        shard_tables: Whether large tables are spread over the processes, and by what; ``None`` where memory does not
            hold them.
    """

    model: RankingModel
    balancer: Balancer
    epochs: int
    gradient_stats_every: int
    balance_domains: bool
    optimization: Optimization
    stopping: EarlyStopping
    run: RunConfig
    processes: ProcessGroup
    device: torch.device
    folder: RunFolder | None
    start: TrainedRun | None = None
    calibration: Method | Mapping[str, Method] | None = None
    callbacks: tuple[Callback, ...] = ()
    shard_tables: ShardTables = None

    @classmethod
    def build(
        cls,
        model: RankingModel,
        balancer: Balancer,
        epochs: int,
        gradient_stats_every: int,
        balance_domains: bool,
        optimization: Optimization,
        stopping: EarlyStopping,
        run: RunConfig,
        shard_tables: ShardTables = None,
    ) -> Self:
        """Check the parts, put the balancer into the model, and move the model, or its part of it, to its device."""
        check_model(model)
        if epochs < 1:
            raise ValueError(f"`epochs` must be at least 1, got {epochs}")
        if gradient_stats_every < 0:
            raise ValueError(f"`gradient_stats_every` must be at least 0, got {gradient_stats_every}")
        check_fork(model, balancer)
        if balance_domains and isinstance(balancer, RepresentationBalancer):
            raise ValueError(
                f"{type(balancer).__name__} balances the heads, which read rows of all domains: leave out "
                "`balance_domains`, or take a balancer of losses or task gradients"
            )
        model.task_losses.split_by_domain(balance_domains)
        claim_balancer(balancer, model)
        check_shared_tensors(model, balancer)
        check_loss_names(model)
        processes = balancer.processes = all_processes()
        device = open_device(device_name(run.device, processes))
        check_gpu_options(optimization, device, processes)
        if device.type == "cuda" and processes.size > 1:
            torch.cuda.set_device(device)
        folder = RunFolder(run.folder) if run.folder and processes.first else None
        setup = cls(
            model,
            balancer,
            epochs,
            gradient_stats_every,
            balance_domains,
            optimization,
            stopping,
            run,
            processes,
            device,
            folder,
            shard_tables=shard_tables,
        )
        setup.metric_monitor()
        install_balancer(model, balancer)
        spread_over(model, shard_tables, optimization.optimizer, processes, device)
        for table in spread_tables(model).values():
            table.storage.check(table.weight)
        with explain_oom(f"the model on {device}", "give smaller tables or layers"):
            model.to(device)
        return setup

    @property
    def objectives(self) -> list[str]:
        """The names of the objectives, in the order of the losses."""
        return [task.name for task in self.model.objectives]

    def metric_monitor(self) -> MetricMonitor:
        """Build the monitor of the validation metric; raise a `ValueError` if the tasks do not have it."""
        return monitor_of(self.stopping, self.model.schema.schema, self.model.objectives)

    def few_rows_note(self, valid: Rows) -> list[str]:
        """Return a sentence if few validation rows of a monitored task decide which weights are best."""
        schema, monitored = self.model.schema.schema, self.metric_monitor().tasks
        by_name = {task.name: task for task in (*schema.reported_tasks, *self.model.objectives)}
        tasks = [by_name[name] for name in monitored]
        return few_rows_note(tasks, label_parts(valid, tasks))

    @contextmanager
    def folder_held(self) -> Iterator[None]:
        """Lock the run folder within a block in the process that writes it; all processes raise its error."""
        with ExitStack() as stack:
            self.processes.in_first(lambda: stack.enter_context(self.folder.held()) if self.folder else None)
            yield

    def check_rows(self, rows: Rows) -> None:
        """Raise a `DataError` unless rows were prepared with the model's schema."""
        if not isinstance(rows, Rows):
            raise DataError(f"expected prepared rows, got {type(rows).__name__}: use `prepare` first")
        schema = self.model.schema
        if rows.schema is not schema and rows.schema.fingerprint != schema.fingerprint:
            raise DataError(
                "the rows were prepared with another schema than the model's: prepare them with the model's"
            )

    def batch_size(self, train: Rows) -> int:
        """Return the rows per step: those of the options, or the default for the number of training rows."""
        return self.optimization.batch_size or default_batch_size(len(train))

    def open_loader(self, train: Rows, note: Callable[[str], None], window: int | None = None) -> Loader:
        """Open the training rows, in memory if they fit; note groups that are cut; a resumed run keeps its window."""
        run, processes, batch_size = self.run, self.processes, self.batch_size(train)
        window = window or run.window or (smallest_window(train, processes) if processes.size > 1 else None)
        grouped = self.model.task_losses.grouped
        with explain_oom(f"the {len(train):,} training rows at once", "give `window`, how many are held at a time"):
            loader = Loader(train, batch_size, self.device, run.seed, window, processes, grouped)
        for sentence in loader.notes:
            note(sentence)
        return loader

    def broadcast_model(self) -> None:
        """Replace the parameters and buffers of the model by those of the first process, but for spread tables."""
        spread = {id(table.weight) for table in spread_tables(self.model).values()}
        tensors = (*self.model.parameters(), *self.model.buffers())
        self.processes.broadcast(tensor for tensor in tensors if id(tensor) not in spread)

    def load_weights(self, state: Mapping[str, Any], folder: Path) -> None:
        """Load the weights of a checkpoint; raise a `RunError` if they do not fit the schema or the model."""
        if state.get("fingerprint") != self.model.schema.fingerprint:
            raise RunError(f"the checkpoint of {str(folder)!r} was trained on another schema than the model's")
        try:
            load_model(self.model, state)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            detail = " ".join(str(error).split())
            raise RunError(f"the checkpoint of {str(folder)!r} does not fit the model: {detail}") from error


def monitor_of(stopping: EarlyStopping, schema: Schema, objectives: Sequence[Task]) -> MetricMonitor:
    """Build the monitor of the validation metric of a model with these objectives.

    Raises:
        ValueError: The tasks do not have the metric, or the group is no column of the schema's that is kept.
    """
    check_group(stopping.group, schema)
    reported = {task.name: task for task in (*schema.reported_tasks, *objectives)}
    grouped = (stopping.group or schema.group) is not None
    return MetricMonitor(stopping, objectives, list(reported.values()), grouped)


def check_group(group: str | None, schema: Schema) -> None:
    """Raise a `ValueError` if metrics are to be grouped by a column that is neither the schema's group nor a key."""
    if group is not None and group not in schema.carried:
        known = ", ".join(map(repr, schema.carried)) or "none"
        raise ValueError(
            f"`trainer.stopping.group` must be the group or a key of the schema, which are {known}, got {group!r}: "
            f"name it by `--group {group}`, or in `keys` of the card"
        )


def default_batch_size(rows: int) -> int:
    """Return the rows per step for a number of training rows, where no `batch_size` is given."""
    return BATCH_SIZES[max(least for least in BATCH_SIZES if least <= rows)]


def claim_balancer(balancer: Balancer, model: RankingModel) -> None:
    """Record that a balancer's state belongs to a model; raise a `ValueError` if it belongs to another."""
    if not isinstance(balancer, Balancer):
        raise ValueError(f"`balancer` must be a balancer such as `recmtl.MetaBalance()`, got {balancer!r}")
    owner = OWNERS.get(balancer)
    if owner is not None and owner() is not model and (owner() is not None or balancer.losses is not None):
        raise ValueError(f"this {type(balancer).__name__} balances another model, whose state it holds: use a new one")
    OWNERS[balancer] = weakref.ref(model)


def check_fork(model: RankingModel, balancer: Balancer) -> None:
    """Raise a `ValueError` if another balancer would replace a fork that changes what the heads read."""
    fork = model.fork
    if fork is balancer or isinstance(fork, IdentityFork):
        return
    if not isinstance(fork, Balancer):
        raise ValueError(
            f"`model.fork` is a {type(fork).__name__}, which a balancer would replace: put it into `trunk`"
        )
    if fork.changes_views(len(model.heads), model.view_features):
        name = type(fork).__name__
        raise ValueError(
            f"the heads were trained behind the rotations of {name}, which {type(balancer).__name__} would replace: "
            f"train on with {name} (`Trainer(model)`), or take the rotations into the heads (`model.fold()`)"
        )


def check_shared_tensors(model: RankingModel, balancer: Balancer) -> None:
    """Raise a `ValueError` if the tasks share no tensor, unless the balancer is the plain sum."""
    if not (model.shared().tensors or isinstance(balancer, Sum)):
        name, method = type(model).__name__, type(balancer).__name__
        raise ValueError(f"the tasks of {name} share no tensor that {method} could balance: train it with `Sum`")


def check_loss_names(model: RankingModel) -> None:
    """Raise a `ValueError` if a task has the name by which the model's penalty is logged."""
    if len(set(model.loss_names)) < len(model.loss_names):
        raise ValueError(f"the penalty of {type(model).__name__} is logged as the loss 'penalty': rename that task")


def install_balancer(model: RankingModel, balancer: Balancer) -> None:
    """Size a balancer for a model and make it the model's fork."""
    balancer.regression_names = tuple(model.task_losses.regressions)
    balancer.setup(
        objectives=len(model.task_losses.names),
        heads=len(model.heads),
        features=model.view_features,
        parts=sum(tensor.parts for tensor in model.shared().tensors),
        names=model.task_losses.names,
        head_names=list(model.heads),
        elements=sum(tensor.elements for tensor in model.shared().tensors),
    )
    if {parameter.dtype for parameter in model.parameters()} == {torch.float64}:
        balancer.double()  # not with the first batch, when the average of its weights is made
    model.fork = balancer


def run_fingerprint(setup: TrainingSetup, optimizer: Optimizer, train: Rows, valid: Rows | None) -> dict[str, Any]:
    """Return by name what the result of a training depends on, as far as it can be written down."""
    settings = ", ".join(f"{name}={value}" for name, value in optimizer.defaults.items())
    return {
        "training rows": len(train),
        "validation rows": 0 if valid is None else len(valid),
        "digest of the training rows": train.fingerprint[:FINGERPRINT_LETTERS],
        "digest of the validation rows": None if valid is None else valid.fingerprint[:FINGERPRINT_LETTERS],
        "model": type(setup.model).__name__,
        "balancer": type(setup.balancer).__name__,
        "epochs": setup.epochs,
        "gradient_stats_every": setup.gradient_stats_every,
        "balance_domains": setup.balance_domains,
        "seed": setup.run.seed,
        "log_every": setup.run.log_every,
        "window": setup.run.window,
        **vars(setup.stopping),
        "metrics": {key: [m.path for m in found] for key, found in own_metrics(setup.stopping.metrics).items()},
        **vars(setup.optimization),
        "batch_size": setup.batch_size(train),
        "optimizer": f"{type(optimizer).__name__}({settings})",
    }


def process_fingerprint(setup: TrainingSetup, resume: bool) -> dict[str, Any]:
    """Return by name what several processes must agree on before they exchange tensors."""
    spread = {f"{name}.weight": table for name, table in spread_tables(setup.model).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in setup.model.named_parameters()}
    shapes |= {name: (table.rows, table.width) for name, table in spread.items()}
    sizes = {f"size of {name}": shape for name, shape in shapes.items()} | {"spread tables": list(spread)}
    run = setup.run
    kept = {"run folder": bool(run.folder), "window": run.window, "checkpoint_every": run.checkpoint_every}
    names = {"model": type(setup.model).__name__, "balancer": type(setup.balancer).__name__}
    return names | sizes | kept | {"balance_domains": setup.balance_domains, "resume": resume}


def check_same(fingerprints: Sequence[Mapping[str, Any]]) -> None:
    """Raise a `RunError` unless all processes train on the same rows with the same options."""
    for rank, other in enumerate(fingerprints):
        for name in dict.fromkeys((*fingerprints[0], *other)):
            first, found = fingerprints[0].get(name), other.get(name)
            if first != found:
                raise RunError(f"process 0 trains with `{name}` {first!r}, process {rank} with {found!r}")


def check_unchanged(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise a `RunError` unless a run resumes with the rows and options that it was started with."""
    for name in dict.fromkeys((*before, *now)):
        old, new = before.get(name), now.get(name)
        if old != new:
            raise RunError(f"{str(folder)!r} was begun with `{name}` {old!r}, which is {new!r} now: it cannot go on")
