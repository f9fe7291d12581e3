"""Two forms of a layer that compute the same: a GPU must show which is faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.contender import median_seconds
from benchmarks.gpu.recording import record_alone
from benchmarks.gpu.sections import Row, attempted
from recmtl.layers.experts import Experts
from recmtl.layers.mlp import LayerStyle
from recmtl.train import Optimization
from recmtl.train.device import attribute_set, autocast

WIDTH = 128  # of what experts read here: their first layers are one product in both forms
HEADS = 2
CLOSE = 0.03  # largest difference of two forms in bf16, as a share of the largest value
Form = Callable[[Tensor, Tensor, Experts], Tensor]


def stacked(x: Tensor, gates: Tensor, experts: Experts) -> Tensor:
    """Compute all experts by one product per layer, as the package does on a GPU."""
    found: Tensor = experts(x)
    return found


def one_by_one(x: Tensor, gates: Tensor, experts: Experts) -> Tensor:
    """Compute each expert by products of its own, as the package does on a CPU."""
    with attribute_set(Experts, "_plain", False):
        return stacked(x, gates, experts)


def gates_by_products(x: Tensor, gates: Tensor, experts: Experts) -> Tensor:
    """Mix the experts by one small product per row, as the package does."""
    return torch.bmm(gates.to(x.dtype), x)  # [B, H, E] · [B, E, D] -> [B, H, D]


def gates_by_sums(x: Tensor, gates: Tensor, experts: Experts) -> Tensor:
    """Mix the experts by products of numbers, and their sum."""
    return (gates.to(x.dtype)[..., None] * x[:, None]).sum(2)  # [B, H, E, D] -> [B, H, D]


PAIRS: dict[str, dict[str, Form]] = {
    "experts": {"stacked": stacked, "one by one": one_by_one},
    "gates": {"by products": gates_by_products, "by multiply and sum": gates_by_sums},
}


def forms(bench: Bench) -> Iterator[Row]:
    """Record both forms, forward and backward, and time their replays; they must agree."""
    for rows in (bench.form.small, bench.form.large):
        for name, pair in PAIRS.items():
            yield attempted(f"{name}, {rows:,} rows", partial(beside_each_other, bench, rows, name, pair))


def beside_each_other(bench: Bench, rows: int, name: str, pair: dict[str, Form]) -> dict[str, Any]:
    torch.manual_seed(0)
    form, device = bench.form, torch.device(bench.device)
    experts = Experts(WIDTH, form.experts, form.layers, LayerStyle()).to(device)
    gates = torch.randn(rows, HEADS, form.experts, device=device).softmax(-1).requires_grad_()
    shape, dtype = (rows, form.experts, form.layers[-1]), torch.bfloat16 if bench.precision == "bf16" else torch.float32
    x = torch.randn(rows, WIDTH, device=device) if name == "experts" else torch.randn(shape, device=device, dtype=dtype)
    x.requires_grad_()
    trained = [x, *experts.parameters()] if name == "experts" else [x, gates]
    values: dict[str, Any] = {}
    results = []
    for form_name, compute in pair.items():

        def work(compute: Form = compute) -> Tensor:
            with autocast(device, Optimization(precision=bench.precision)):
                found = compute(x, gates, experts)
            gradients = torch.autograd.grad(found, trained, torch.ones_like(found))
            return torch.cat([found.detach().flatten(), *(g.flatten().to(found.dtype) for g in gradients)])

        recorded, graph, result = record_alone(work, bench.device)
        values[f"{form_name}, recorded"] = recorded
        values[f"{form_name}, launched_ms"] = 1000 * median_seconds(work, form.rounds)
        if recorded == "yes":
            values[f"{form_name}, replayed_ms"] = 1000 * median_seconds(graph.replay, form.rounds)
        results.append(result.double())
    first, second = results
    apart = float((first - second).abs().max() / first.abs().max())
    return {**values, "apart": apart, **({"failed": "the forms differ"} if apart > CLOSE else {})}
