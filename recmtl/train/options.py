"""The options of training, in three groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from recmtl.evaluate.own_metrics import MetricFunction

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
Schedule = Literal["constant", "linear", "cosine"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Nonfinite = Literal["skip", "error"]
ShardTables = bool | Literal["torchrec"] | None


@dataclass(frozen=True)
class Optimization:
    """Optimizer, schedule, precision and clipping.

    Args:
        batch_size: Rows per step; ``None`` chooses by the number of training rows: 2048 of many.
        optimizer: Builds the optimizer of the model's parameters: any of torch's, ``Adam`` at its 0.001 by default. In
            tables of more than a million elements it updates the batch's rows alone, and must be element-wise.
        schedule: The learning rate over the steps of all epochs: ``constant``, or falling to 0 as ``linear`` or
            ``cosine``.
        warmup: The share of all steps in which the learning rate first rises linearly from 0.
        ema: The decay of the exponential moving average of the weights, which is what is measured and kept, while
            training goes on from the weights themselves. In step t it is at most (1 + t)/(10 + t). 0 averages nothing.
            Tables of more than a million elements are not averaged.
        clip_norm: The gradient of the model's parameters is scaled down to this norm; ``None`` does not clip.
        precision: ``fp32``; ``bf16`` for products in bfloat16 (autocast) with weights, balancing and losses in fp32;
            on a CUDA device also ``tf32``, for float32 products whose factors are rounded to 10 bits, and ``fp16``, for
            products in float16 with scaled losses, whose steps are not recorded: for GPUs without bfloat16.
        balancer_rate: The learning rate of a balancer's own parameters (Adam), such as rotations. It must be tuned:
            RotoGrad's paper advises one below the model's, but too low a rate has no effect.
        cuda_graph: Record the step as a CUDA graph and replay it, which costs one launch; ``None`` does so if the
            model, its towers and the balancer are recmtl's and torch's, and the optimizer keeps its state in tensors.
            ``True`` also records your own modules: their results must depend on tensors alone, and their state must be
            updated in place. Steps that several processes share are never recorded.
        nonfinite: What happens to a loss or a gradient that is NaN or infinite. ``skip``: the task is left out of the
            shared gradient, entries of other gradients are set to 0, and the step is counted; ``error``: training ends.
        nonfinite_steps: With ``skip``, the number of consecutive such steps of one task or layer that ends training;
            steps in which a task has no label do not count.

    Raises:
        ValueError: An option is out of its range.
    """

    batch_size: int | None = None
    optimizer: OptimizerFactory = torch.optim.Adam
    schedule: Schedule = "constant"
    warmup: float = 0.0
    ema: float = 0.999
    clip_norm: float | None = None
    precision: Precision = "fp32"
    balancer_rate: float = 1e-4
    cuda_graph: bool | None = None
    nonfinite: Nonfinite = "skip"
    nonfinite_steps: int = 100

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"`schedule` must be one of {get_args(Schedule)}, got {self.schedule!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"`precision` must be one of {get_args(Precision)}, got {self.precision!r}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"`warmup` must be in [0, 1), got {self.warmup}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"`ema` must be in [0, 1), got {self.ema}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"`clip_norm` must be above 0, got {self.clip_norm}")
        if self.cuda_graph not in (None, False, True):
            raise ValueError(f"`cuda_graph` must be true, false or none, got {self.cuda_graph!r}")
        if self.cuda_graph and self.precision == "fp16":
            raise ValueError(
                "`cuda_graph` cannot record steps in 'fp16', which are skipped if they overflow: leave it out"
            )
        if self.nonfinite not in get_args(Nonfinite):
            raise ValueError(f"`nonfinite` must be one of {get_args(Nonfinite)}, got {self.nonfinite!r}")
        if self.nonfinite_steps < 1:
            raise ValueError(f"`nonfinite_steps` must be at least 1, got {self.nonfinite_steps}")
        if not self.balancer_rate >= 0:
            raise ValueError(f"`balancer_rate` must be at least 0, got {self.balancer_rate}")


@dataclass(frozen=True)
class EarlyStopping:
    """When training ends early. The best weights are loaded in any case.

    Args:
        monitor: The metric of the validation rows that decides: a task's own such as ``ctcvr.auc`` or ``ctr.logloss``,
            or the mean of one over the objectives for which it is defined: ``auc``. If the schema has a group, or
            `group` names a key, ``gauc``, ``ndcg@10`` and ``recall@10`` are measured within it, and ``ndcg@10`` of
            amounts. ``None`` takes ``auc``, ``r2`` if every objective is a regression, or ``auc+r2`` if some are: the
            mean over the objectives of the AUC of each binary task and the R² of each regression. Of equal values of a
            metric that ranks rows, such as AUC, that with the lower log-loss is better. An undefined metric is no
            improvement, and does not count towards the patience; if it was never defined, the log-loss (of regressions:
            RMSE) decides.
        patience: Stop after this number of evaluations without improvement; ``None`` trains all epochs.
        min_delta: An improvement must be larger than this.
        evaluations: The number of evaluations per epoch.
        group: The key of the schema by which grouped metrics are measured, while training and at its end; ``None``
            takes the schema's group.
        metrics: Metrics of your own, functions or their import paths, by the name of a task, a kind of tasks such as
            `binary`, or `all`: ``{"ctr": ["my_module.hit_rate"]}``. They are measured wherever recmtl's are, and can
            be monitored. A function takes predictions, labels, weights and groups, and returns a number; its attribute
            `higher_is_better` says which values are better, by default higher ones.

    Raises:
        ValueError: An option is out of its range.
    """

    monitor: str | None = None
    patience: int | None = 3
    min_delta: float = 0.0
    evaluations: int = 1
    group: str | None = None
    metrics: Mapping[str, Sequence[str | MetricFunction]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"`patience` must be at least 1, got {self.patience}")
        if not self.min_delta >= 0:
            raise ValueError(f"`min_delta` must be at least 0, got {self.min_delta}")
        if self.evaluations < 1:
            raise ValueError(f"`evaluations` must be at least 1, got {self.evaluations}")


@dataclass(frozen=True)
class RunConfig:
    """The run folder, the device, the seed, and what is logged.

    Args:
        folder: The run folder to write; ``None`` writes nothing.
        seed: The seed of shuffling and dropout. Balancers that draw random numbers have their own.
        device: A device such as ``cpu`` or ``cuda``; ``None`` takes a GPU if there is one.
        threads: CPU threads of each process while it trains and predicts. ``None`` takes torch's number, which follows
            ``OMP_NUM_THREADS``; if that is not set, at most the CPUs that the process may use.
        log_every: Steps between two lines of `metrics.jsonl`.
        progress: Show a summary of the training, and a progress bar on a terminal or plain lines in a log.
        tensorboard: Also write TensorBoard event files into the folder, if the extra ``tensorboard`` is installed.
        predictions: Keep the predictions of all measured rows in the folder. Reports and comparisons need them.
        window: Training rows held in memory at a time, by all processes together, up to three times this number,
            shuffled in two steps; ``None`` holds all if they fit into half of the free memory.
        checkpoint_every: Steps between two checkpoints, beside those at the end of each epoch and when stopped.
        checkpoint_minutes: Minutes between two checkpoints.
        keep: The number of checkpoints kept while training: if the newest is damaged, the one before is used.
        optimizers: Keep the states of the optimizers in the folder of a finished run, for trainings that start from it.
            With Adam they are twice as large as the weights.

    Raises:
        ValueError: An option is out of its range.
    """

    folder: Path | None = None
    seed: int = 0
    device: str | None = None
    threads: int | None = None
    log_every: int = 50
    progress: bool = True
    tensorboard: bool = True
    predictions: bool = True
    window: int | None = None
    checkpoint_every: int | None = None
    checkpoint_minutes: float | None = None
    keep: int = 2
    optimizers: bool = True

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"`seed` must be in [0, 2³²), got {self.seed}")
        for name in ("threads", "log_every", "window", "checkpoint_every", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if self.checkpoint_minutes is not None and not self.checkpoint_minutes >= 0:
            raise ValueError(f"`checkpoint_minutes` must be at least 0, got {self.checkpoint_minutes}")
