"""Experts and gates for mixtures of experts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recmtl.balance.backward import float32_products, on_host
from recmtl.balance.shared import SharedTensor, shared_tensors
from recmtl.layers.ensemble import member_products
from recmtl.layers.mlp import ACTIVATIONS, MLP, LayerStyle, PaddedLinear


class Experts(nn.Module):
    """Several MLPs on one input, whose first layers are stacked in one wide layer for speed.

    Shape:
        - input: ``[B, in_features]``
        - output: ``[B, experts, sizes[-1]]``; with an ensemble of k, ``[B·k, experts, sizes[-1]]``

    Args:
        in_features: The width of the input.
        experts: The number of experts.
        sizes: The widths of each expert's layers.
        style: Normalisation, activation, dropout, initialisation and ensemble.
        expand: Whether the rows become those of the ensemble's members here; if not, the input is ``[B·k, W]``.

    Raises:
        ValueError: `experts` is below 1, or `sizes` is empty.
    """

    def __init__(
        self, in_features: int, experts: int, sizes: Sequence[int], style: LayerStyle, expand: bool = True
    ) -> None:
        super().__init__()
        if experts < 1:
            raise ValueError(f"`experts` must be at least 1, got {experts}")
        if not sizes:
            raise ValueError("`sizes` must hold at least one layer, got none")
        first, *rest = sizes
        self.experts = experts
        self.wide = style.linear(in_features, first, stacked=experts, expand=expand)
        self.after = style.after(first, stacked=experts)
        self.towers = nn.ModuleList(MLP(first, rest, style, expand=False) for _ in range(experts if rest else 0))
        self.out_features = sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of every expert."""
        hidden = self.after(self.wide(x))  # [B, E·first]
        if not len(self.towers):
            return torch.unflatten(hidden, 1, (self.experts, self.out_features))  # [B, E, D]
        if not on_host(hidden) and self._plain:
            return torch.unflatten(self._stacked(hidden), 1, (self.experts, self.out_features))  # [B, E, D]
        chunks = hidden.chunk(self.experts, dim=1)  # E of [B, first]
        return torch.stack([tower(chunk) for tower, chunk in zip(self.towers, chunks, strict=True)], dim=1)  # [B, E, D]

    @property
    def _plain(self) -> bool:
        """Whether the layers of the experts differ in their weights alone: linear, without normalisation."""
        elementwise = (nn.Sequential, nn.Dropout, MLP, *(type(build()) for build in ACTIVATIONS.values()))
        modules = list(self.towers.modules())[1:]
        return all(type(module) in (nn.Linear, PaddedLinear) or isinstance(module, elementwise) for module in modules)

    def _stacked(self, hidden: Tensor) -> Tensor:
        """Return the outputs of plain experts, ``[B, E·first]`` to ``[B, E·D]``, by one product per layer for all.

        A GPU launches the product of all experts as fast as that of one.
        """
        layers = [tower.layers for tower in self.towers if isinstance(tower, MLP)]
        for same in zip(*layers, strict=True):  # the layers at one depth, one per expert
            if isinstance(same[0], nn.Linear):
                weight = torch.stack([layer.weight for layer in same])  # [E, out, in]
                bias = torch.stack([layer.bias for layer in same])  # [E, out]
                by_expert = torch.unflatten(hidden, 1, (self.experts, -1)).transpose(0, 1)  # [E, B, in]
                hidden = member_products(by_expert, weight, bias, bias.numel())  # [B, E·out]
            else:
                hidden = same[0](hidden)
        return hidden

    def shared_tensors(self) -> list[SharedTensor]:
        """Return the parameters as shared tensors; the wide layer has one part per expert."""
        stacked = [p for module in (self.wide, self.after) for p in module.parameters()]
        return [SharedTensor(parameter, self.experts) for parameter in stacked] + shared_tensors(self.towers)

    @property
    def last_weights(self) -> tuple[Tensor, ...]:
        """The weights of the experts' last linear layers."""
        weights = [w for tower in self.towers if isinstance(tower, MLP) for w in tower.last_weights]
        return tuple(weights) or (self.wide.weight,)


def check_experts(layers: Sequence[int], **counts: int) -> None:
    """Check that a model's experts have layers, and that each of its counts, by the name of its argument, is positive.

    Raises:
        ValueError: `layers` is empty, or a count is below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1, got {count}")
    if not layers:
        raise ValueError("`layers` must hold at least one layer, got none")


class Gates(nn.Module):
    """One gate per head: a distribution over the experts.

    Shape:
        - input: ``[B, in_features]``
        - output: ``[B, heads, experts]``, each row of the last dimension sums to 1; ``[B·k, …]`` for an ensemble of k

    Args:
        in_features: The width of the input.
        heads: The number of gates.
        experts: The number of experts.
        style: Of its options gates use initialisation, ensemble and batch normalisation, before the softmax.
        expand: Whether the rows become those of the ensemble's members here; if not, the input is ``[B·k, W]``.
    """

    def __init__(self, in_features: int, heads: int, experts: int, style: LayerStyle, expand: bool = True) -> None:
        super().__init__()
        self._shape = (heads, experts)
        self.linear = style.linear(in_features, experts, stacked=heads, expand=expand)
        self.norm = nn.BatchNorm1d(heads * experts) if style.normalization == "batch" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the weights of the experts for each head."""
        return torch.unflatten(self.norm(self.linear(x)), 1, self._shape).softmax(dim=-1)  # [B, H, E]


def mixtures(gates: Tensor, experts: Tensor) -> Tensor:
    """Return the sums of the experts' outputs by the weights of each gate.

    Shape:
        - gates: ``[B, H, E]``
        - experts: ``[B, E, D]``
        - output: ``[B, H, D]``
    """
    kind = experts.device.type
    lower = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else experts.dtype
    gates, experts = gates.to(lower), experts.to(lower)
    if experts.shape[1] == 1:
        return gates * experts  # [B, H, 1] · [B, 1, D]: as a product of matrices per row it takes five times as long
    if lower != torch.float32 or not on_host(experts) or torch.compiler.is_compiling():
        return torch.bmm(gates, experts)
    mixed: Tensor = _Mixtures.apply(gates, experts)  # type: ignore[no-untyped-call]
    return mixed


def own_mixtures(gates: Tensor, experts: Tensor) -> Tensor:
    """Return the mixture of each task's own experts.

    Shape:
        - gates: ``[B, K, own]``
        - experts: ``[B, K · own, D]``, task by task
        - output: ``[B, K, D]``
    """
    by_task = torch.unflatten(experts, 1, gates.shape[1:]).flatten(0, 1)  # [B·K, own, D]
    mixed = mixtures(gates.flatten(0, 1)[:, None], by_task)  # [B·K, 1, D]
    return torch.unflatten(mixed.squeeze(1), 0, gates.shape[:2])  # [B, K, D]


class _Mixtures(torch.autograd.Function):
    """`mixtures` of float32 on a CPU, whose backward products are MKL's: oneDNN takes three times as long for them."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, experts: Tensor) -> Tensor:
        ctx.save_for_backward(gates, experts)
        return torch.bmm(gates, experts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gates, experts = ctx.saved_tensors
        of_gates, of_experts = ctx.needs_input_grad
        with float32_products(gradient.device):
            return (
                torch.bmm(gradient, experts.mT) if of_gates else None,
                torch.bmm(gates.mT, gradient) if of_experts else None,
            )
