"""The cross layers of DCN-v2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from recmtl.layers.interaction import Interaction
from recmtl.layers.mlp import LayerStyle

Structure = Literal["stacked", "parallel"]


class CrossNetwork(Interaction):
    r"""The base class of cross layers, which multiply a map of each layer's input by the first input.

    $$
    x_{l+1} = x_0 \odot f_l(x_l) + x_l
    $$

    Shape:
        - input: ``[B, W]``
        - output: x_L, ``[B, W]``; if the structure is parallel, x_L and x_0, ``[B, 2W]``

    Args:
        in_features: The width of the input, W.
        layers: L, the number of layers.
        build_map: Builds f_l, a module from ``[B, W]`` to ``[B, W]``.
        structure: ``stacked`` or ``parallel``.

    Raises:
        ValueError: `layers` is below 1, or `structure` neither of these.
    """

    def __init__(self, in_features: int, layers: int, build_map: Callable[[], nn.Module], structure: Structure) -> None:
        if layers < 1:
            raise ValueError(f"`layers` must be at least 1, got {layers}")
        if structure not in get_args(Structure):
            raise ValueError(f"`structure` must be one of {get_args(Structure)}, got {structure!r}")
        super().__init__(in_features, in_features * (1 if structure == "stacked" else 2))
        self.structure = structure
        self.maps = nn.ModuleList(build_map() for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Return x_L, with x_0 beside it if the structure is parallel."""
        first = x
        for linear in self.maps:
            x = first * linear(x) + x  # [B, W]
        return x if self.structure == "stacked" else torch.cat([x, first], 1)  # [B, W] or [B, 2W]


class CrossLayers(CrossNetwork):
    r"""The cross layers of DCN-v2: L layers yield products of up to L + 1 features.

    Wang et al., "DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems",
    WWW 2021, arXiv:2008.13535, equations 1 and 2:

    $$
    x_{l+1} = x_0 \odot (W_l x_l + b_l) + x_l, \qquad W_l = U_l V_l^\top \text{ of rank } r
    $$

    Note:
        Of the mixture of low-rank experts (equation 3) this is the case of one expert. In the paper's parallel
        structure a deep network reads x_0 beside the cross layers, and a last layer reads both outputs; here the trunk
        reads x_L and x_0.

    Shape:
        - input: ``[B, W]``
        - output: ``[B, W]``, or ``[B, 2W]`` if the structure is parallel

    Args:
        in_features: The width of the input, W.
        layers: L, the number of cross layers.
        rank: r, the rank of the weights, W at most; ``None`` for full weights. A layer then has 2·W·r weights, not W².
        structure: ``stacked``: the trunk reads x_L; ``parallel``: it reads x_L and x_0.

    Raises:
        ValueError: `layers` is below 1, `rank` not from 1 to W, or `structure` neither of these.

    Example:
        >>> import torch
        >>> CrossLayers(8, layers=2, rank=2, structure="parallel")(torch.zeros(3, 8)).shape
        torch.Size([3, 16])
    """

    def __init__(
        self, in_features: int, layers: int = 2, rank: int | None = None, structure: Structure = "stacked"
    ) -> None:
        if rank is not None and not 1 <= rank <= in_features:
            raise ValueError(f"`rank` must be from 1 to {in_features}, the width of the encoder, got {rank}")
        super().__init__(in_features, layers, lambda: linear_map(in_features, rank), structure)


def linear_map(features: int, rank: int | None) -> nn.Module:
    """Build the map x ↦ Wx + b between vectors of one width, with a weight of full or lower rank."""
    style = LayerStyle()
    if rank is None:
        return style.linear(features, features)
    inner = style.linear(features, rank)
    inner.bias = None  # type: ignore[assignment]
    return nn.Sequential(inner, style.linear(rank, features))  # V, then U and b
