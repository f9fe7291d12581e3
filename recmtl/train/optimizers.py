"""Optimizers: row-sparse updates of large embedding tables, fused kernels, learning rates, and saved states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from recmtl.features import EmbeddingTable
from recmtl.runs.checkpoint_file import check_state_like
from recmtl.train.options import OptimizerFactory, Schedule


class SparseRowOptimizer:
    """Updates only the rows of a table that a step has gathered, with any element-wise optimizer.

    The optimizer sees one parameter ``[U, width]``, the batch's distinct rows, with their part of its state; both are
    written back afterwards. A row that is not in the batch does not change, nor do its moments, and its weights do not
    decay: the cost of a step depends on the batch, not on the table. Step counts are per table.
    """

    def __init__(self, table: EmbeddingTable, factory: OptimizerFactory) -> None:
        self._table, self._factory = table, factory
        self._optimizer: Optimizer | None = None
        self._started = False
        self._counts: dict[str, Any] = {}
        self._elements: dict[str, Tensor] = {}  # by name: [rows of the table, width]

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        """Update the gathered rows; raise a `ValueError` if the optimizer is not element-wise."""
        gathered = self._table.gathered
        places, rows = gathered.places, gathered.rows
        if rows.grad is None:  # no loss reaches the table
            return
        first = not self._started
        optimizer = self._optimizer = self._optimizer or fused(self._factory([rows]))
        (group,) = optimizer.param_groups
        group["lr"], group["params"] = rate, [rows]
        if not first:
            parts = {name: whole.index_select(0, places) for name, whole in self._elements.items()}
            optimizer.state[rows] = self._counts | parts
        optimizer.step()
        self._started = True
        state: dict[str, Any] = optimizer.state.pop(rows, {})
        if first:
            self._elements = dict(self._whole(state, rows))
        for name, whole in self._elements.items():
            gathered.put(whole, state.pop(name))
        self._counts = state
        gathered.put(self._table.weight, rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all rows, and whether there is any."""
        return {"started": self._started, "counts": self._counts, "elements": self._elements}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned; raise a `ValueError` if it is that of another table or optimizer."""
        weight = self._table.weight
        sample = weight.new_zeros(2, weight.shape[1])
        form = first_state(self._factory, sample) if state["started"] else {}
        by_row = {n: v for n, v in form.items() if isinstance(v, Tensor) and v.shape == sample.shape}
        expected = {
            "started": bool(state["started"]),
            "counts": {name: value for name, value in form.items() if name not in by_row},
            "elements": {name: value[:1].expand(weight.shape) for name, value in by_row.items()},
        }
        check_state_like(state, expected, "the state of a table")
        device = weight.device
        self._started = state["started"]
        self._counts = {n: v.to(device) if isinstance(v, Tensor) else v for n, v in state["counts"].items()}
        self._elements = {name: whole.to(device) for name, whole in state["elements"].items()}

    @property
    def table(self) -> EmbeddingTable:
        """The table."""
        return self._table

    def whole(self) -> dict[str, Any]:
        """Return the state of all rows in the form of one parameter's; empty before the first step."""
        return {**self._counts, **self._elements} if self._started else {}

    def load_whole(self, state: Mapping[str, Any]) -> None:
        """Load what `whole` returned."""
        weight = self._table.weight
        elements = {n: v for n, v in state.items() if isinstance(v, Tensor) and v.shape == weight.shape}
        counts = {name: value for name, value in state.items() if name not in elements}
        self.load_state_dict({"started": bool(state), "counts": counts, "elements": elements})

    def _whole(self, state: dict[str, Any], rows: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield the initial state of the whole table, from a step with a gradient of 0."""
        probe = first_state(self._factory, rows[:1])
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == rows.shape:
                yield name, probe[name].repeat(len(self._table.weight), 1)
            elif isinstance(value, Tensor) and value.numel() > 1:
                called = type(self._optimizer).__name__
                raise ValueError(f"{called} cannot train a large embedding table: its state is not element-wise")


class WeightAverage:
    r"""An exponential moving average of weights: what is measured and kept of a training.

    $\bar w \leftarrow \delta \bar w + (1 - \delta)\, w$ after each step (Polyak and Juditsky, 1992, in the form of
    Tarvainen and Valpola, NeurIPS 2017). In step t, $\delta = (1 + t) / (10 + t)$ as long as that is less than the
    decay: the average is then over about the last tenth of the steps.

    Args:
        weights: The weights; equal values are put into them, never other tensors.
        decay: The largest δ.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self._weights, self._decay, self._steps = list(weights), decay, 0
        self._average = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights after a step."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        if self._average:
            torch._foreach_lerp_(self._average, self._weights, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average in place of the weights within a block."""
        kept = [weight.detach().clone() for weight in self._weights]
        self._put(self._average)
        try:
            yield
        finally:
            self._put(kept)

    def replace_weights(self) -> None:
        """Put the average in place of the weights for good."""
        self._put(self._average)

    @torch.no_grad()
    def _put(self, values: Sequence[Tensor]) -> None:
        for weight, value in zip(self._weights, values, strict=True):
            weight.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the average and the number of steps."""
        return {"steps": self._steps, "average": self._average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `state_dict` returned; raise a `ValueError` if it is that of other weights."""
        check_state_like(state, self.state_dict(), "the average of the weights")
        self._steps = state["steps"]
        for own, saved in zip(self._average, state["average"], strict=True):
            own.copy_(saved)


def first_state(factory: OptimizerFactory, tensor: Tensor) -> dict[str, Any]:
    """Return the state of a tensor in a new optimizer after a step with a gradient of 0."""
    sample = torch.zeros_like(tensor, requires_grad=True)
    sample.grad = torch.zeros_like(sample)
    optimizer = fused(factory([sample]))
    optimizer.step()
    return dict(optimizer.state.get(sample, {}))


def fused(optimizer: Optimizer) -> Optimizer:
    """Switch an optimizer to its fused implementation, if it has one for its device and the user chose none.

    On a GPU, step counts are kept on the device if the optimizer can.
    """
    everywhere = not isinstance(optimizer, torch.optim.Adagrad)  # whose fused form is for CPUs
    for group in optimizer.param_groups:
        open_choice = group.get("fused", False) is None and not (group.get("foreach") or group.get("differentiable"))
        devices = {parameter.device.type for parameter in group["params"]}
        if open_choice and devices <= ({"cpu", "cuda"} if everywhere else {"cpu"}):
            group["fused"] = True
        if "capturable" in group and devices == {"cuda"}:
            group["capturable"] = True
    return optimizer


def learning_rate_factor(schedule: Schedule, warmup: float, total_steps: int) -> Callable[[int], float]:
    """Return the function from a step to the factor of the learning rate; warmup is a share of all steps."""
    warm = round(warmup * total_steps)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        progress = min(1.0, (step - warm) / max(1, total_steps - warm))
        return {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}[schedule]

    return factor


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any], factory: OptimizerFactory) -> None:
    """Load a saved state and hyperparameters; the implementation (fused, capturable) stays. Raises a `ValueError`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    known = {i: first_state(factory, parameters[i]) for i in range(len(parameters)) if i in saved["state"]}
    check_state_like(saved["state"], known, "the state of the optimizer")
    groups = []
    for group, other in zip(optimizer.state_dict()["param_groups"], saved["param_groups"], strict=True):
        numbers = {name: value for name, value in group.items() if type(value) in (int, float, list, tuple)}
        numbers["lr"] = _as_number(group["lr"])
        found = {name: other[name] for name in numbers} | {"lr": _as_number(other["lr"])}
        check_state_like(found, numbers, "a group of the optimizer")
        groups.append(group | found | {"params": group["params"]})
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def on_host(state: Any) -> Any:
    """Return a state with its tensors on the host, where those that are there already are not copied."""
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: on_host(value) for name, value in state.items()}
    return [on_host(value) for value in state] if isinstance(state, list) else state


def load_states(optimizer: Optimizer, states: Mapping[Tensor, Mapping[str, Any]]) -> None:
    """Put the states of some parameters into an optimizer, whose hyperparameters stay."""
    content = optimizer.state_dict()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    content["state"] = {place: dict(states[p]) for place, p in enumerate(parameters) if p in states}
    optimizer.load_state_dict(content)


def _as_number(value: Any) -> Any:
    """Return the learning rate of a recorded step, which is a tensor, as a number."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
