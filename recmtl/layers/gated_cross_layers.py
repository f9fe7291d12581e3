"""The gated cross layers of GDCN."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recmtl.layers.cross_layers import CrossNetwork, Structure
from recmtl.layers.mlp import LayerStyle


class GatedCrossLayers(CrossNetwork):
    r"""The gated cross layers of GDCN: cross layers whose gates let through the products that matter in each row.

    Wang et al., "Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction", CIKM 2023,
    arXiv:2311.04635, the gated cross network:

    $$
    x_{l+1} = x_0 \odot (W_l^{(c)} x_l + b_l) \odot \sigma(W_l^{(g)} x_l) + x_l
    $$

    Note:
        In the paper's parallel structure, GDCN-P, a deep network reads x_0 beside the cross layers; here the trunk
        reads x_L and x_0.

    Shape:
        - input: ``[B, W]``
        - output: ``[B, W]``, or ``[B, 2W]`` if the structure is parallel

    Args:
        in_features: The width of the input, W.
        layers: L, the number of cross layers.
        structure: ``stacked``: the trunk reads x_L; ``parallel``: it reads x_L and x_0.

    Raises:
        ValueError: `layers` is below 1, or `structure` neither of these.

    Example:
        >>> GatedCrossLayers(8, layers=3)(torch.zeros(5, 8)).shape
        torch.Size([5, 8])
    """

    def __init__(self, in_features: int, layers: int = 2, structure: Structure = "stacked") -> None:
        super().__init__(in_features, layers, lambda: GatedLinear(in_features), structure)


class GatedLinear(nn.Module):
    """The map x ↦ (W_c x + b) ⊙ σ(W_g x) between vectors of one width.

    Shape:
        - input and output: ``[B, W]``

    Args:
        features: The width, W.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = LayerStyle().linear(features, features)
        self.gate = LayerStyle().linear(features, features)
        self.gate.bias = None  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Return the gated output of the linear layer."""
        return torch.mul(self.linear(x), self.gate(x).sigmoid())
