"""One training step: losses, balanced gradients, updates. It never waits for the device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from recmtl.balance import Balancer, GradientStats, SharedTensor, gradient_stats
from recmtl.data import Batch, Share
from recmtl.errors import RunError
from recmtl.features import EmbeddingTable
from recmtl.features.saved_tables import own_elements, saved_elements, spread_elements
from recmtl.features.sharding import LARGE
from recmtl.io.machine import keep_freed_memory
from recmtl.models import RankingModel
from recmtl.models.head import has_weights_to_train
from recmtl.train.cuda_graph import CudaGraph, Graph, GraphedStep, recordable
from recmtl.train.device import autocast, matmul_precision
from recmtl.train.distributed import average_statistics, frozen_batch_norms, untracked_batch_norms
from recmtl.train.divergence import NonFiniteCounter
from recmtl.train.fp16 import LossScaler
from recmtl.train.optimizers import (
    SparseRowOptimizer,
    WeightAverage,
    check_optimizer,
    fused,
    learning_rate_factor,
    load_optimizer,
)
from recmtl.train.options import Optimization, OptimizerFactory

if TYPE_CHECKING:
    from recmtl.runs.table_parts import TableParts

ROW_MODE = LARGE  # elements of a table above which a step gathers its rows


class Step:
    """Trains a model on one batch at a time.

    Args:
        model: The model, with the balancer as its fork.
        balancer: Turns the losses into gradients.
        options: Optimizer, schedule, precision and clipping.
        total_steps: The number of steps that the learning rate schedule spans.
        graph: Records and replays the step; by default a CUDA graph, if the options and the device allow one.

    Attributes:
        optimizers: That of the dense parameters, then that of the balancer's, if it has any.
        row_optimizers: Those of the tables of which a step gathers rows.
        average: The average of the weights; ``None`` if there is none.
        nonfinite: Counts what was not finite.
        gradient_stats: The task gradients' norms and cosines in the last step that measured them.
        taken: Whether the last step moved the weights; it does not in fp16 if gradients overflowed.
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
        check_optimizer(options.optimizer)
        self._model, self._balancer, self._options = model, balancer, options
        tables = (module for module in model.modules() if isinstance(module, EmbeddingTable))
        self._tables = [t for t in tables if t.weight.requires_grad and (t.sharded or t.weight.numel() > ROW_MODE)]
        self.row_optimizers = [SparseRowOptimizer(table, options.optimizer) for table in self._tables]
        by_rows = {id(table.weight) for table in self._tables}
        self._own = [p for p in own_parameters(model, balancer) if id(p) not in by_rows]
        self.optimizers = [fused(options.optimizer([p for p in self._own if p.requires_grad]))]
        self._rotations = [p for p in balancer.parameters() if p.requires_grad]
        if self._rotations:
            self.optimizers.append(fused(torch.optim.Adam(self._rotations, lr=options.balancer_rate)))
        averaged = [p for p in model.parameters() if p.requires_grad and id(p) not in by_rows]
        self.average = WeightAverage(averaged, options.ema) if options.ema else None
        device = next(model.parameters()).device
        limit = options.nonfinite_steps if options.nonfinite == "skip" else 1
        self.nonfinite = NonFiniteCounter(model, balancer, self._own, self._tables, limit)
        self.gradient_stats: GradientStats | None = None
        self.taken = True
        self._scaler = LossScaler(device) if options.precision == "fp16" else None
        balancer.scaler = self._scaler.scaler if self._scaler else None
        factor = learning_rate_factor(options.schedule, options.warmup, total_steps)
        self._schedules = [LambdaLR(optimizer, factor) for optimizer in self.optimizers]
        if graph is None and device.type == "cuda" and balancer.processes.size == 1 and self._can_be_recorded():
            graph = CudaGraph(device)
        own: Any = weakref.proxy(self)  # without a cycle, what a graph reserves is freed together with the step
        train: Callable[[Batch], Tensor] = partial(Step._train, own)
        self._plain_or_recorded = train if graph is None else GraphedStep(train, graph)
        self._rates_on = None if graph is None else device
        self._put_rates()

    def __call__(self, batch: Batch, with_stats: bool = False) -> Tensor:
        """Take one step and return the losses ``[K]`` of the whole batch, then the penalty, still on the device.

        `with_stats` measures the task gradients first, into `gradient_stats`; the step stays the same.
        """
        losses = self._train(batch, with_stats=True) if with_stats else self._plain_or_recorded(batch)
        # A replay computes them without Python.
        penalized = self._balancer.penalty is not None
        self._balancer.losses, self._balancer.penalty = (losses[:-1], losses[-1]) if penalized else (losses, None)
        for schedule in self._schedules if self.taken else ():
            schedule.step()
        if self.average and self.taken:
            self.average.update()
        return losses

    def _train(self, batch: Batch, with_stats: bool = False) -> Tensor:
        """Do the device's part of a step. All state is updated in place, as a CUDA graph requires."""
        with matmul_precision(batch.labels.device, self._options.precision), in_row_mode(self._tables, batch.share):
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            return self._backward_and_update(batch, with_stats)

    def _backward_and_update(self, batch: Batch, with_stats: bool) -> Tensor:
        rows = None if batch.share is None else len(batch)
        few = nullcontext() if rows is None else frozen_batch_norms(self._model, rows)
        with autocast(batch.labels.device, self._options), few:
            logits = self._model(batch)
        losses, penalty = self._model.losses(logits, batch), self._model.penalty(logits, batch)
        terms = [*losses.values(), *([] if penalty is None else [penalty])]
        if not any(term.requires_grad for term in terms) and has_weights_to_train(self._model):
            raise RunError("no loss of the model has a gradient, but it has weights to train")
        if self._scaler:
            losses, penalty = self._scaler.scaled(losses, penalty)
        shared = self._model.shared()
        leaves = [SharedTensor(*tensor) for tensor in shared.tensors]
        if with_stats:
            norms, cosines = gradient_stats(losses, leaves, self._balancer.processes)
            self.gradient_stats = GradientStats(self._scaler.unscaled(norms) if self._scaler else norms, cosines)
        moved = [*self._own, *(table.gathered.rows for table in self._tables)]
        of_tables = [shared for table in self._tables for shared in table.shared_tensors()]
        known = {id(leaf.tensor) for leaf in leaves}
        private = [leaf for leaf in (*map(SharedTensor, self._own), *of_tables) if id(leaf.tensor) not in known]
        self._balancer.backward(losses, leaves, shared.last, private, penalty)
        self._update(moved)
        if rows is not None:
            average_statistics(self._balancer.processes, self._model, rows)
        if self._balancer.needs_losses_after_step and self.taken:
            self._balancer.after_step(self._losses_again(batch, rows))
        values, value = self._balancer.losses, self._balancer.penalty
        assert values is not None
        return values if value is None else torch.cat([values, value[None]])

    @torch.no_grad()
    def _losses_again(self, batch: Batch, rows: int | None) -> Mapping[str, Tensor]:
        """Return the losses of a batch under the updated weights; tables are read whole, as their rows were written."""
        frozen = frozen_batch_norms(self._model, rows)
        with autocast(batch.labels.device, self._options), untracked_batch_norms(self._model), frozen:
            logits = self._model(batch)
        return self._model.losses(logits, batch)

    def _update(self, moved: Sequence[Tensor]) -> None:
        for table in self._tables:
            if table.weight.grad is not None:
                raise RuntimeError(
                    "a table of more than a million elements is trained by the rows that it gathers, but its `weight` "
                    "was also used directly: look up rows by calling the table"
                )
        if self._scaler is None:
            self._take(moved)
            return
        self.taken = self._scaler.update([*moved, *self._rotations], lambda: self._take(moved))
        if not self.taken:
            self.nonfinite.skip(moved if self._scaler.exhausted else ())
        elif self._scaler.skipped and not self.nonfinite.idle():
            self._scaler.skipped = 0

    def _take(self, moved: Sequence[Tensor]) -> None:
        self.nonfinite.update(moved)
        if self._options.clip_norm is not None:
            self._clip(moved, self._options.clip_norm)
        for row_optimizer in self.row_optimizers:
            row_optimizer.step(self.optimizers[0].param_groups[0]["lr"])
        for optimizer in self.optimizers:
            optimizer.step()

    def _clip(self, moved: Sequence[Tensor], most: float) -> None:
        """Scale the gradients down to a norm; of rows that are spread over processes, that of all processes counts."""
        spread = {id(table.gathered.rows) for table in self._tables if table.sharded}
        gradients = {id(tensor): tensor.grad for tensor in moved if tensor.grad is not None}
        norm = nn.utils.get_total_norm([g for name, g in gradients.items() if name not in spread])
        if spread:
            own = nn.utils.get_total_norm([g for name, g in gradients.items() if name in spread])
            norm = torch.hypot(norm, self._balancer.processes.norm(own.to(norm)))
        nn.utils.clip_grads_with_norm_(moved, most, norm)

    def _can_be_recorded(self) -> bool:
        if self._scaler is not None:
            return False  # which steps are taken depends on the gradients
        if self._options.cuda_graph is not None:
            return self._options.cuda_graph
        own = any(task.own_loss for task in self._model.objectives)  # which may do anything
        return not own and recordable([self._model, self._balancer], self.optimizers)

    def _put_rates(self) -> None:
        """Keep the learning rates of a recorded step in tensors: the graph reads what the schedule writes."""
        if self._rates_on is not None:
            for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
                group["lr"] = torch.tensor(float(group["lr"]), device=self._rates_on)

    def skipped_in_a_row(self, ended: bool) -> int:
        """Return how many steps, up to the last one, trained nothing. Waits for the device.

        None in fp16 while the scale is still being lowered, unless training has `ended`.
        """
        if self._scaler and not (ended or self._scaler.exhausted):
            return 0
        return self.nonfinite.skipped_in_a_row(ended, self._scaler.skipped if self._scaler else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of optimizers, schedules and counts, without that of the balancer and `spread_states`."""
        parts = {name: [part.state_dict() for part in parts] for name, parts in self._parts.items()}
        average = self.average.state_dict() if self.average else None
        scale = self._scaler.state_dict() if self._scaler else None
        return {**parts, "incidents": self.nonfinite.state_dict(), "average": average, "loss_scale": scale}

    def spread_states(self) -> dict[str, Tensor]:
        """Return the states of those tables' optimizers that are spread over processes, each process its part."""
        names, found = self._names, dict[str, Tensor]()
        for rows in self.row_optimizers:
            found |= spread_elements(names[id(rows.table.weight)], rows.table, rows.elements)
        return found

    def load_state_dict(self, state: Mapping[str, Any], parts: TableParts | None = None) -> None:
        """Load what `state_dict` and `spread_states` returned; raise a `ValueError` if it is of other optimizers."""
        for (optimizer, factory), saved in zip(self.factories(), state["optimizers"], strict=True):
            load_optimizer(optimizer, saved, factory)
        for rows, saved in zip(self.row_optimizers, state["rows"], strict=True):
            kept = saved_elements(self._names[id(rows.table.weight)], parts)
            rows.load_state_dict(saved | {"elements": own_elements(rows.table, saved["elements"], kept)})
        for schedule, saved in zip(self._schedules, state["schedules"], strict=True):
            own = schedule.state_dict()
            schedule.load_state_dict(own | {name: saved[name] for name, value in own.items() if type(value) is int})
        self.nonfinite.load_state_dict(state["incidents"])
        if self.average:
            self.average.load_state_dict(state["average"])
        if self._scaler:
            self._scaler.load_state_dict(state["loss_scale"])
        self._put_rates()

    def optimizer_states(self) -> dict[str, Any]:
        """Return the state of all optimizers by the names of the parameters, without `spread_states`.

        That of a table has all of its rows.
        """
        names, found = self._names, []
        for optimizer in self.optimizers:
            states = {names[id(parameter)]: dict(state) for parameter, state in optimizer.state.items()}
            if optimizer is self.optimizers[0]:
                states |= {names[id(rows.table.weight)]: rows.whole() for rows in self.row_optimizers}
            found.append({"class": type(optimizer).__name__, "state": states})
        return {"optimizers": found}

    def factories(self) -> list[tuple[Optimizer, OptimizerFactory]]:
        """Return the optimizers of model and balancer, and what builds each of them."""
        return list(zip(self.optimizers, (self._options.optimizer, torch.optim.Adam), strict=False))

    @property
    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self._model.named_parameters()}

    @property
    def _parts(self) -> dict[str, Sequence[Any]]:
        return {"optimizers": self.optimizers, "rows": self.row_optimizers, "schedules": self._schedules}

    @property
    def learning_rate(self) -> float | Tensor:
        """The learning rate of the next step; that of a recorded step is a tensor."""
        rate: float | Tensor = self.optimizers[0].param_groups[0]["lr"]
        return rate


@contextmanager
def in_row_mode(tables: Sequence[EmbeddingTable], share: Share | None = None) -> Iterator[None]:
    """Let tables gather the batch's rows within a block; the rows must be written back by its end."""
    for table in tables:
        table.start_row_mode(share)
    try:
        yield
    finally:
        for table in tables:
            table.end_row_mode()


def own_parameters(model: RankingModel, balancer: Balancer) -> Iterator[nn.Parameter]:
    """Return the model's parameters without those of the balancer in its fork."""
    balancers = {id(parameter) for parameter in balancer.parameters()}
    return (parameter for parameter in model.parameters() if id(parameter) not in balancers)
