"""Optimizers: row-sparse updates of large embedding tables, fused kernels, learning rates, and saved states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from recmtl.features import EmbeddingTable
from recmtl.runs.checkpoint_file import check_state_like
from recmtl.train.options import OptimizerFactory, Schedule


class SparseRowOptimizer:
    """Updates only the rows of a table that a step has gathered, with any optimizer that works row by row.

    The optimizer sees one parameter ``[U, width]``, the batch's distinct rows, with their part of its state; both are
    written back afterwards. A row that is not in the batch does not change, nor do its moments, and its weights do not
    decay: the cost of a step depends on the batch, not on the table. Step counts are per table. Of a table that is
    spread over processes, each updates the rows that it has.
    """

    def __init__(self, table: EmbeddingTable, factory: OptimizerFactory) -> None:
        self._table, self._factory = table, factory
        self._optimizer: Optimizer | None = None
        self._started = False
        self._counts: dict[str, Any] = {}
        self._elements: dict[str, Tensor] = {}  # by name: [rows of the weight, …], such as the width, or 1 of each row

    @torch.no_grad()
    def step(self, rate: float | Tensor) -> None:
        """Update the gathered rows; raise a `ValueError` if the optimizer mixes rows."""
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
            self._elements = dict(self._whole(state))
        for name, whole in self._elements.items():
            gathered.put(whole, state.pop(name))
        self._counts = state
        gathered.put(self._table.weight, rows)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of all rows, and whether there is any; of a table that is spread, without `elements`."""
        elements = {} if self._table.sharded else self._elements
        return {"started": self._started, "counts": self._counts, "elements": elements}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned, with `elements`; raise a `ValueError` if it does not fit."""
        weight = self._table.weight
        form = first_state(self._factory, weight.new_zeros(2, weight.shape[1])) if state["started"] else {}
        by_row = {name: value for name, value in form.items() if _has_rows(value, 2)}
        expected = {
            "started": bool(state["started"]),
            "counts": {name: value for name, value in form.items() if name not in by_row},
            "elements": {n: value[:1].expand(len(weight), *value.shape[1:]) for n, value in by_row.items()},
        }
        check_state_like(state, expected, "the state of a table")
        device = weight.device
        self._started = state["started"]
        self._counts = {n: v.to(device) if isinstance(v, Tensor) else v for n, v in state["counts"].items()}
        self._elements = {name: whole.to(device) for name, whole in state["elements"].items()}

    @property
    def elements(self) -> dict[str, Tensor]:
        """What it keeps of each row of the weight that this process has, by name."""
        return self._elements

    @property
    def table(self) -> EmbeddingTable:
        """The table."""
        return self._table

    def whole(self) -> dict[str, Any]:
        """Return the state of all rows in the form of one parameter's; empty before the first step.

        Of a table that is spread over processes, it is without `elements`.
        """
        state = self.state_dict()
        return {**state["counts"], **state["elements"]} if self._started else {}

    def load_whole(self, state: Mapping[str, Any]) -> None:
        """Load what `whole` returned."""
        weight = self._table.weight
        elements = {name: value for name, value in state.items() if _has_rows(value, len(weight))}
        counts = {name: value for name, value in state.items() if name not in elements}
        self.load_state_dict({"started": bool(state), "counts": counts, "elements": elements})

    def _whole(self, state: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
        """Yield the initial state of all rows of the weight, from a step of two with a gradient of 0."""
        weight = self._table.weight
        probe = first_state(self._factory, weight.new_zeros(2, weight.shape[1]))
        for name in state:
            value = probe[name]
            if _has_rows(value, 2):
                yield name, value[:1].repeat(len(weight), *[1] * (value.dim() - 1))
            elif isinstance(value, Tensor) and value.numel() > 1:
                called = type(self._optimizer).__name__
                raise ValueError(f"{called} cannot train a large embedding table: its state is not of each row")


def _has_rows(state: Any, rows: int) -> bool:
    """Return whether a part of an optimizer's state has so many rows."""
    return isinstance(state, Tensor) and state.dim() > 0 and len(state) == rows


class RowWiseAdagrad(Optimizer):
    r"""Adagrad with one number of state per row: for a table of width d it needs 1/d of the memory of Adagrad's.

    With $g_r$ the gradient of row r, of d numbers, in each step

    $$s_r \leftarrow s_r + \lVert g_r \rVert^2 / d, \qquad w_r \leftarrow w_r - \eta\, g_r / (\sqrt{s_r} + \epsilon)$$

    (Duchi et al., JMLR 2011, with the mean square of a row in place of each element's square, as recommendation models
    use it: Mudigere et al., ISCA 2022, section 4.1). A row is an entry of dimension 0; of biases each element is one.

    Args:
        params: The parameters.
        lr: The learning rate, η.
        eps: ε.

    Raises:
        ValueError: `lr` or `eps` is negative.

    Example:
        >>> w = torch.zeros(2, 2, requires_grad=True)
        >>> w.grad = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
        >>> RowWiseAdagrad([w], lr=1.0).step()
        >>> w
        tensor([[-0.8485, -1.1314],
                [ 0.0000,  0.0000]], requires_grad=True)
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.01, eps: float = 1e-10) -> None:
        for name, value in {"lr": lr, "eps": eps}.items():
            if not value >= 0:
                raise ValueError(f"`{name}` must be at least 0, got {value}")
        super().__init__(params, {"lr": lr, "eps": eps})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step."""
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                gradient = parameter.grad
                rows = gradient.flatten(1) if gradient.dim() > 1 else gradient.view(-1, 1)  # [rows, d]
                state = self.state[parameter]
                if not state:
                    state["sum"] = rows.new_zeros(len(rows), 1)
                total = state["sum"].add_(rows.square().mean(1, keepdim=True))  # [rows, 1]
                parameter.sub_((rows * group["lr"] / (total.sqrt() + group["eps"])).view_as(parameter))


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


def check_optimizer(factory: OptimizerFactory) -> None:
    """Raise a `ValueError` if an optimizer takes no step by gradients alone: L-BFGS computes losses, too."""
    try:
        first_state(factory, torch.zeros(2, 2))
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"the optimizer cannot train a ranking model: {error}; give another one") from error


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
