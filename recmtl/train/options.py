"""What a user can set about training, in three groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

OptimizerFactory = Callable[[Iterable[Tensor]], Optimizer]
Schedule = Literal["constant", "linear", "cosine"]
Precision = Literal["fp32", "tf32", "bf16"]
Nonfinite = Literal["skip", "error"]


@dataclass(frozen=True)
class Optimization:
    """How the weights move.

    Args:
        batch_size: Rows per step.
        optimizer: Builds the optimizer of the model's parameters: any of torch's, ``Adam`` at its 0.001 by default. In
            a table above a million numbers it moves the batch's rows alone, and must work element by element.
        schedule: Of the learning rate, step by step over all epochs: ``constant``, or falling to 0 in a ``linear``
            or ``cosine`` way.
        warmup: The share of all steps in which the learning rate rises linearly from 0 first.
        clip_norm: The gradient of the model's parameters is scaled down to this norm; ``None`` does not clip.
        precision: ``fp32``; ``bf16`` for products in bfloat16 (autocast) with weights, balancing and losses in fp32;
            on a CUDA device also ``tf32``, for products of float32 whose factors are rounded to 10 bits.
        balancer_rate: The learning rate of a balancer's own parameters (Adam), such as rotations. To be found by trial:
            RotoGrad's paper advises one below the model's, but too low a one does nothing.
        cuda_graph: Record the step on a CUDA device and replay it, so that it costs one launch; ``None`` does so where
            the model, its towers and the balancer are recmtl's and torch's, and the optimizer keeps its state in
            tensors. ``True`` also records modules of one's own: what they compute must depend on tensors alone, and
            what they change, they must change in place.
        nonfinite: What becomes of a loss or a gradient that is NaN or infinite. ``skip``: the task is left out of what
            it shares with others, entries of other gradients are 0, and it is counted; ``error``: training ends.
        nonfinite_steps: With ``skip``, so many steps in a row in which it is the same task or layer end training.

    Raises:
        ValueError: An option is out of its range.
    """

    batch_size: int = 2048
    optimizer: OptimizerFactory = torch.optim.Adam
    schedule: Schedule = "constant"
    warmup: float = 0.0
    clip_norm: float | None = None
    precision: Precision = "fp32"
    balancer_rate: float = 1e-4
    cuda_graph: bool | None = None
    nonfinite: Nonfinite = "skip"
    nonfinite_steps: int = 100

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {self.batch_size}")
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"`schedule` must be one of {get_args(Schedule)}, got {self.schedule!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"`precision` must be one of {get_args(Precision)}, got {self.precision!r}")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"`warmup` must be in [0, 1), got {self.warmup}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"`clip_norm` must be above 0, got {self.clip_norm}")
        if self.cuda_graph not in (None, False, True):
            raise ValueError(f"`cuda_graph` must be true, false or none, got {self.cuda_graph!r}")
        if self.nonfinite not in get_args(Nonfinite):
            raise ValueError(f"`nonfinite` must be one of {get_args(Nonfinite)}, got {self.nonfinite!r}")
        if self.nonfinite_steps < 1:
            raise ValueError(f"`nonfinite_steps` must be at least 1, got {self.nonfinite_steps}")
        if not self.balancer_rate >= 0:
            raise ValueError(f"`balancer_rate` must be at least 0, got {self.balancer_rate}")


@dataclass(frozen=True)
class EarlyStopping:
    """When training ends early. The best weights are restored in any case.

    Args:
        monitor: What is watched on the validation rows: a task's own metric such as ``ctcvr.auc`` or ``ctr.logloss``,
            or the mean of one over the objectives that have it: ``auc``. Where the schema has a group, ``gauc``,
            ``ndcg@10`` and ``recall@10`` are measured within it. ``None`` takes ``auc``, or ``r2`` where every
            objective is a regression. A metric that is undefined neither improves nor costs patience.
        patience: Stop after so many evaluations without improvement; ``None`` trains all epochs.
        min_delta: An improvement must be larger than this.
        evaluations: How often per epoch the validation rows are measured.

    Raises:
        ValueError: An option is out of its range.
    """

    monitor: str | None = None
    patience: int | None = 3
    min_delta: float = 0.0
    evaluations: int = 1

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
    """Where a run happens and what it leaves behind.

    Args:
        folder: The run folder to write; ``None`` writes nothing.
        seed: Of the shuffling and of dropout. Balancers that draw have a seed of their own.
        device: Such as ``cpu`` or ``cuda``; ``None`` takes the GPU where there is one.
        log_every: Steps between two lines of `metrics.jsonl`.
        progress: Show a progress bar on a terminal, plain lines in a log.
        tensorboard: Write TensorBoard event files into the folder, too, where the extra ``tensorboard`` is installed.
        predictions: Keep the predictions of all measured rows in the folder. Without them there is no report on the run
            and no comparison with it.
        window: Training rows held in memory at a time, of which there are up to three, shuffled in two steps; ``None``
            holds all where half of the free memory takes them.
        checkpoint_every: Steps between two checkpoints, beside those at the end of each epoch and of a stop.
        checkpoint_minutes: Minutes between two checkpoints.
        keep: How many of them are kept while training: where the newest is damaged, the one before is taken.

    Raises:
        ValueError: An option is out of its range.
    """

    folder: Path | None = None
    seed: int = 0
    device: str | None = None
    log_every: int = 50
    progress: bool = True
    tensorboard: bool = True
    predictions: bool = True
    window: int | None = None
    checkpoint_every: int | None = None
    checkpoint_minutes: float | None = None
    keep: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not 0 <= self.seed < 1 << 32:
            raise ValueError(f"`seed` must be in [0, 2³²), got {self.seed}")
        for name in ("log_every", "window", "checkpoint_every", "keep"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if self.checkpoint_minutes is not None and not self.checkpoint_minutes >= 0:
            raise ValueError(f"`checkpoint_minutes` must be at least 0, got {self.checkpoint_minutes}")
