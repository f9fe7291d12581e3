"""One training step: losses, balanced gradients, updates. Nothing in it waits for the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from recmtl.balance import Balancer, GradientStats, SharedTensor, gradient_stats
from recmtl.data import Batch, Share
from recmtl.features import EmbeddingTable
from recmtl.models import RankingModel
from recmtl.train.cuda_graph import CudaGraph, Graph, GraphedStep, recordable
from recmtl.train.device import autocast, keep_freed_memory, matmul_precision
from recmtl.train.distributed import average_statistics, frozen_batch_norms
from recmtl.train.losses import Losses
from recmtl.train.nonfinite import NonFiniteCounter
from recmtl.train.optimizers import SparseRowOptimizer, fused, learning_rate_factor, load_optimizer
from recmtl.train.options import Optimization

ROW_MODE = 1_000_000  # numbers in a table above which a step gathers its rows; below, the whole lies in a cache


class Step:
    """Trains a model on one batch at a time.

    Args:
        model: The model; the balancer takes its place as the model's fork.
        balancer: Turns the losses into gradients.
        options: How the weights move.
        total_steps: How many steps the schedule of the learning rate spans.
        graph: Records the step and replays it; by default a CUDA graph, where the options and the device allow one.
    """

    def __init__(
        self,
        model: RankingModel,
        balancer: Balancer,
        options: Optimization,
        total_steps: int,
        graph: Graph | None = None,
    ) -> None:
        keep_freed_memory()
        self._model, self._balancer, self._options = model, balancer, options
        self._losses = Losses(model.schema.schema, model.objectives)
        tables = (module for module in model.modules() if isinstance(module, EmbeddingTable))
        self._tables = [t for t in tables if t.weight.numel() > ROW_MODE and t.weight.requires_grad]
        self._row_optimizers = [SparseRowOptimizer(table, options.optimizer) for table in self._tables]
        by_rows = {id(table.weight) for table in self._tables}
        self._own = [p for p in own_parameters(model, balancer) if id(p) not in by_rows]
        self.optimizers = [fused(options.optimizer([p for p in self._own if p.requires_grad]))]
        rotations = [p for p in balancer.parameters() if p.requires_grad]
        if rotations:
            self.optimizers.append(fused(torch.optim.Adam(rotations, lr=options.balancer_rate)))
        device = next(model.parameters()).device
        limit = options.nonfinite_steps if options.nonfinite == "skip" else 1
        self.incidents = NonFiniteCounter(model, balancer, self._own, self._tables, limit)
        self.diagnosis: GradientStats | None = None
        factor = learning_rate_factor(options.schedule, options.warmup, total_steps)
        self._schedules = [LambdaLR(optimizer, factor) for optimizer in self.optimizers]
        if graph is None and device.type == "cuda" and balancer.processes.size == 1 and self._is_to_be_recorded():
            graph = CudaGraph(device)
        self._plain_or_recorded = self._train if graph is None else GraphedStep(self._train, graph)
        self._rates_on = None if graph is None else device
        self._put_rates()

    def __call__(self, batch: Batch, diagnosed: bool = False) -> Tensor:
        """Take one step and give the losses ``[K]`` of the whole batch, still on the device.

        Args:
            batch: The rows.
            diagnosed: Whether to measure the tasks' gradients first, into `diagnosis`; the step stays the same.
        """
        losses = self._train(batch, diagnosed=True) if diagnosed else self._plain_or_recorded(batch)
        for schedule in self._schedules:
            schedule.step()
        return losses

    def _train(self, batch: Batch, diagnosed: bool = False) -> Tensor:
        """All of a step that the device does; what it changes, it changes in place."""
        with matmul_precision(batch.labels.device, self._options.precision), in_row_mode(self._tables, batch.share):
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            return self._balanced(batch, diagnosed)

    def _balanced(self, batch: Batch, diagnosed: bool) -> Tensor:
        rows = None if batch.share is None else len(batch)
        with autocast(batch.labels.device, self._options), frozen_batch_norms(self._model, rows):
            logits = self._model(batch)
        losses = self._losses(logits, batch)
        shared = self._model.shared()
        leaves = [SharedTensor(*tensor) for tensor in shared.tensors]
        if diagnosed:
            self.diagnosis = gradient_stats(losses, leaves, self._balancer.processes)
        moved = [*self._own, *(table.gathered.rows for table in self._tables)]
        known = {id(leaf.tensor) for leaf in leaves}
        self._balancer.backward(losses, leaves, shared.last, (tensor for tensor in moved if id(tensor) not in known))
        self._update(moved)
        if rows is not None:
            average_statistics(self._balancer.processes, self._model, rows)
        assert self._balancer.losses is not None
        return self._balancer.losses

    def _update(self, moved: Sequence[Tensor]) -> None:
        for table in self._tables:
            if table.weight.grad is not None:
                raise RuntimeError(
                    "a table above a million numbers is trained by the rows that it gathers, but its `weight` was also "
                    "used directly: look its rows up by calling it"
                )
        self.incidents.take(moved)
        if self._options.clip_norm is not None:
            nn.utils.clip_grad_norm_(moved, self._options.clip_norm)
        for row_optimizer in self._row_optimizers:
            row_optimizer.step(self.optimizers[0].param_groups[0]["lr"])
        for optimizer in self.optimizers:
            optimizer.step()

    def _is_to_be_recorded(self) -> bool:
        if self._options.cuda_graph is not None:
            return self._options.cuda_graph
        return recordable([self._model, self._balancer], self.optimizers)

    def _put_rates(self) -> None:
        """Hold the learning rates in tensors where steps are recorded: a record reads what the schedule writes."""
        if self._rates_on is not None:
            for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
                group["lr"] = torch.tensor(float(group["lr"]), device=self._rates_on)

    def state_dict(self) -> dict[str, Any]:
        """Give all that the next step depends on beside the model, the balancer in it and the batch."""
        parts = {name: [part.state_dict() for part in parts] for name, parts in self._parts.items()}
        return {**parts, "incidents": self.incidents.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what another step's `state_dict` gave.

        Raises:
            ValueError: It was that of other optimizers.
        """
        factories = [self._options.optimizer, torch.optim.Adam][: len(self.optimizers)]  # of model and balancer
        for optimizer, saved, factory in zip(self.optimizers, state["optimizers"], factories, strict=True):
            load_optimizer(optimizer, saved, factory)
        for rows, saved in zip(self._row_optimizers, state["rows"], strict=True):
            rows.load_state_dict(saved)
        for schedule, saved in zip(self._schedules, state["schedules"], strict=True):
            own = schedule.state_dict()
            schedule.load_state_dict(own | {name: saved[name] for name, value in own.items() if type(value) is int})
        self.incidents.load_state_dict(state["incidents"])
        self._put_rates()

    @property
    def _parts(self) -> dict[str, Sequence[Any]]:
        return {"optimizers": self.optimizers, "rows": self._row_optimizers, "schedules": self._schedules}

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.optimizers[0].param_groups[0]["lr"])


@contextmanager
def in_row_mode(tables: Sequence[EmbeddingTable], share: Share | None = None) -> Iterator[None]:
    """Gather the rows of large tables within a block; the rows must be put back by its end."""
    for table in tables:
        table.start_row_mode(share)
    try:
        yield
    finally:
        for table in tables:
            table.row_mode = False


def own_parameters(model: RankingModel, balancer: Balancer) -> Iterator[nn.Parameter]:
    """Give the model's parameters without those of the balancer that lies in its fork."""
    foreign = {id(parameter) for parameter in balancer.parameters()}
    return (parameter for parameter in model.parameters() if id(parameter) not in foreign)
