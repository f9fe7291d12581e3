"""Experts and their gates, laid out so that no step copies what it computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recmtl.balance.shared import SharedTensor
from recmtl.layers.mlp import MLP, LayerStyle, parameters_of


class Experts(nn.Module):
    """Several MLPs on one input: their first layers as one wide layer, the rest one by one.

    Shape:
        - input: ``[B, in_features]``
        - output: ``[B, experts, sizes[-1]]``

    Args:
        in_features: The width of the input.
        experts: How many.
        sizes: The widths of the layers of each.
        style: What stands around each linear layer.

    Raises:
        ValueError: There is no expert, or no layer.
    """

    def __init__(self, in_features: int, experts: int, sizes: Sequence[int], style: LayerStyle) -> None:
        super().__init__()
        if experts < 1:
            raise ValueError(f"`experts` must be at least 1, got {experts}")
        if not sizes:
            raise ValueError("an expert needs at least one layer")
        first, *rest = sizes
        self.experts = experts
        self.wide = style.linear(in_features, first, stacked=experts)
        self.after = style.after(first, stacked=experts)
        self.towers = nn.ModuleList(MLP(first, rest, style) for _ in range(experts if rest else 0))
        self.out_features = sizes[-1]

    def forward(self, x: Tensor) -> Tensor:
        """Run all experts."""
        hidden = self.after(self.wide(x))  # [B, E·first]
        if not len(self.towers):
            return torch.unflatten(hidden, 1, (self.experts, self.out_features))  # [B, E, D]
        chunks = hidden.chunk(self.experts, dim=1)  # E of [B, first]
        return torch.stack([tower(chunk) for tower, chunk in zip(self.towers, chunks, strict=True)], dim=1)  # [B, E, D]

    def shared(self) -> list[SharedTensor]:
        """Name the parameters: the wide layer counts expert by expert."""
        wide = parameters_of(self.wide, self.experts) + parameters_of(self.after, self.experts)
        return wide + parameters_of(self.towers)

    @property
    def last_weights(self) -> tuple[Tensor, ...]:
        """The weights of the experts' last linear layers."""
        weights = [w for tower in self.towers if isinstance(tower, MLP) for w in tower.last_weights]
        return tuple(weights) or (self.wide.weight,)


class Gates(nn.Module):
    """One gate per head: a distribution over the experts.

    Shape:
        - input: ``[B, in_features]``
        - output: ``[B, heads, experts]``, each row of the last dimension sums to 1

    Args:
        in_features: The width of the input.
        heads: How many gates.
        experts: How many experts each weighs.
        style: Its normalisation stands before the softmax; a gate has no activation and no dropout.
    """

    def __init__(self, in_features: int, heads: int, experts: int, style: LayerStyle) -> None:
        super().__init__()
        self._shape = (heads, experts)
        self.linear = style.linear(in_features, experts, stacked=heads)
        self.norm = nn.BatchNorm1d(heads * experts) if style.normalization == "batch" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the experts."""
        return torch.unflatten(self.norm(self.linear(x)), 1, self._shape).softmax(dim=-1)  # [B, H, E]
