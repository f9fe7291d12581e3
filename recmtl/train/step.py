"""One training step: losses, balanced gradients, updates. Nothing in it waits for the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from recmtl.balance import Balancer, Diagnosis, Leaf, diagnose, zero_nonfinite_gradients
from recmtl.data import Batch
from recmtl.features import EmbeddingTable
from recmtl.models import RankingModel
from recmtl.train.losses import Losses
from recmtl.train.memory import keep_freed_memory
from recmtl.train.options import Optimization
from recmtl.train.products import fast_products
from recmtl.train.rows import RowOptimizer, fused
from recmtl.train.schedule import learning_rate_factor

ROW_MODE = 1_000_000  # numbers in a table above which a step gathers its rows; below, the whole lies in a cache


class Step:
    """Trains a model on one batch at a time.

    Args:
        model: The model; the balancer takes its place as the model's fork.
        balancer: Turns the losses into gradients.
        options: How the weights move.
        total_steps: How many steps the schedule of the learning rate spans.
    """

    def __init__(self, model: RankingModel, balancer: Balancer, options: Optimization, total_steps: int) -> None:
        keep_freed_memory()
        self._model, self._balancer, self._options = model, balancer, options
        self._losses = Losses(model.schema.schema, model.objectives)
        tables = (module for module in model.modules() if isinstance(module, EmbeddingTable))
        self._tables = [t for t in tables if t.weight.numel() > ROW_MODE and t.weight.requires_grad]
        self._row_optimizers = [RowOptimizer(table, options.optimizer) for table in self._tables]
        by_rows = {id(table.weight) for table in self._tables}
        self._own = [p for p in own_parameters(model, balancer) if id(p) not in by_rows]
        self.optimizers = [fused(options.optimizer([p for p in self._own if p.requires_grad]))]
        rotations = [p for p in balancer.parameters() if p.requires_grad]
        if rotations:
            self.optimizers.append(torch.optim.Adam(rotations, lr=options.balancer_rate, fused=True))
        self.zeroed: Tensor | int = 0  # tensors whose gradient had entries that were not finite, over all steps
        self.diagnosis: Diagnosis | None = None
        factor = learning_rate_factor(options.schedule, options.warmup, total_steps)
        self._schedules = [LambdaLR(optimizer, factor) for optimizer in self.optimizers]

    def __call__(self, batch: Batch, diagnosed: bool = False) -> Tensor:
        """Take one step and give the losses ``[K]``, still on the device.

        Args:
            batch: The rows.
            diagnosed: Whether to measure the tasks' gradients first, into `diagnosis`; the step stays the same.
        """
        with fast_products(batch.labels.device), in_row_mode(self._tables):
            return self._train(batch, diagnosed)

    def _train(self, batch: Batch, diagnosed: bool) -> Tensor:
        with autocast(batch.labels.device, self._options):
            logits = self._model(batch)
        losses = self._losses(logits, batch)
        shared = self._model.shared()
        leaves = [Leaf(*tensor) for tensor in shared.tensors]
        if diagnosed:
            self.diagnosis = diagnose(losses, leaves)
        self._balancer.backward(losses, leaves, shared.last)
        self._update()
        return torch.stack([loss.detach() for loss in losses.values()])

    def _update(self) -> None:
        moved = [*self._own, *(table.gathered[1] for table in self._tables)]
        self.zeroed = self.zeroed + zero_nonfinite_gradients(moved)
        if self._options.clip_norm is not None:
            nn.utils.clip_grad_norm_(moved, self._options.clip_norm)
        for row_optimizer in self._row_optimizers:
            row_optimizer.step(self.learning_rate)
        for optimizer, schedule in zip(self.optimizers, self._schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizers[0].param_groups[0]["lr"])


@contextmanager
def in_row_mode(tables: Sequence[EmbeddingTable]) -> Iterator[None]:
    """Gather the rows of large tables within a block; the rows must be put back by its end."""
    for table in tables:
        table.row_mode = True
    try:
        yield
    finally:
        for table in tables:
            table.row_mode = False


def own_parameters(model: RankingModel, balancer: Balancer) -> Iterator[nn.Parameter]:
    """Give the model's parameters without those of the balancer that lies in its fork."""
    foreign = {id(parameter) for parameter in balancer.parameters()}
    return (parameter for parameter in model.parameters() if id(parameter) not in foreign)


def autocast(device: torch.device, options: Optimization) -> torch.autocast:
    """Compute in the precision that the options ask for."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.precision == "bf16")
