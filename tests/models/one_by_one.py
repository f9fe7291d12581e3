"""Experts and gates computed one at a time with their slices of stacked weights, as papers write them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from recmtl.layers import Experts, Gates


def expert(experts: Experts, index: int, x: Tensor) -> Tensor:
    """One expert of two layers with ReLUs: `[B, W]` to `[B, D]`."""
    width = experts.wide.out_features // experts.experts
    rows = slice(index * width, (index + 1) * width)
    hidden = F.linear(x, experts.wide.weight[rows], experts.wide.bias[rows]).relu()
    ((last, _),) = [tower.layers for tower in [experts.towers[index]]]
    return F.linear(hidden, last.weight, last.bias).relu()


def gate(gates: Gates, head: int, x: Tensor) -> Tensor:
    """One gate: `[B, W]` to `[B, E]`."""
    count = gates._shape[1]
    rows = slice(head * count, (head + 1) * count)
    powers = F.linear(x, gates.linear.weight[rows], gates.linear.bias[rows]).exp()
    return powers / powers.sum(1, keepdim=True)


def mixture(weights: Tensor, outputs: list[Tensor]) -> Tensor:
    """The sum of the outputs `[B, D]` by their weights `[B, E]`."""
    assert weights.shape[1] == len(outputs)
    return sum((weights[:, i, None] * output for i, output in enumerate(outputs)), torch.zeros(()))


def same_in_value_and_gradient(views: list[Tensor], twins: list[Tensor], parameters: list[Tensor]) -> None:
    """Each view equals its twin, and so does the gradient of a sum of it by weights, of every parameter."""
    for view, twin in zip(views, twins, strict=True):
        torch.testing.assert_close(view, twin, rtol=1e-12, atol=1e-14)
        weights = torch.linspace(-1, 2, view.numel(), dtype=view.dtype).view_as(view)
        mine, theirs = (
            torch.autograd.grad((v * weights).sum(), parameters, retain_graph=True, materialize_grads=True)
            for v in (view, twin)
        )
        for found, expected in zip(mine, theirs, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)
