"""The mask blocks of MaskNet."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from recmtl.layers.interaction import Interaction
from recmtl.layers.mlp import LayerStyle, ReLU

Arrangement = Literal["serial", "parallel"]


class MaskNet(Interaction):
    r"""The mask blocks of MaskNet: layers whose input is multiplied by a mask that the row itself decides.

    Wang, She and Zhang, "MaskNet: Introducing Feature-Wise Multiplication to CTR Ranking Models by Instance-Guided
    Mask", DLP-KDD 2021, arXiv:2102.07619. Block i computes

    $$
    m_i = W_{i,2} \operatorname{ReLU}(W_{i,1} x + \beta_{i,1}) + \beta_{i,2}, \qquad
    v_i = \operatorname{ReLU}(\operatorname{LN}(W_i (m_i \odot u_i)))
    $$

    where u_i is LN(x) for parallel blocks and for the first of serial ones, and v_{i−1} for the other serial ones. All
    masks read x.

    Note:
        The paper normalises the embedding of each feature by itself; this block knows no features, and LN(x) normalises
        the row as a whole. β_{i,2} starts at 1, so that a block starts as a layer that its mask hardly changes.

    Shape:
        - input: ``[B, W]``
        - output: ``[B, width]`` of serial blocks, ``[B, blocks · width]`` of parallel ones

    Args:
        in_features: The width of the input, W.
        blocks: The number of blocks.
        width: The width of a block's output.
        arrangement: ``serial`` or ``parallel``.
        reduction_ratio: r, the width of a mask's hidden layer over that of the mask.

    Raises:
        ValueError: `blocks` or `width` is below 1, `reduction_ratio` not above 0, or `arrangement` neither of these.

    Example:
        >>> MaskNet(8, blocks=3, width=4, arrangement="parallel")(torch.zeros(5, 8)).shape
        torch.Size([5, 12])
    """

    def __init__(
        self,
        in_features: int,
        blocks: int = 2,
        width: int = 128,
        arrangement: Arrangement = "serial",
        reduction_ratio: float = 1.0,
    ) -> None:
        for name, value in {"blocks": blocks, "width": width}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}")
        if not 0 < reduction_ratio < math.inf:
            raise ValueError(f"`reduction_ratio` must be above 0, got {reduction_ratio}")
        if arrangement not in get_args(Arrangement):
            raise ValueError(f"`arrangement` must be one of {get_args(Arrangement)}, got {arrangement!r}")
        super().__init__(in_features, width if arrangement == "serial" else blocks * width)
        self.arrangement = arrangement
        self.norm = nn.LayerNorm(in_features)
        self.blocks = nn.ModuleList(
            MaskBlock(in_features, in_features if arrangement == "parallel" or not i else width, width, reduction_ratio)
            for i in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last block, or of all parallel ones side by side."""
        hidden: Tensor = self.norm(x)
        if self.arrangement == "parallel":
            return torch.cat([block(x, hidden) for block in self.blocks], 1)  # [B, blocks · width]
        for block in self.blocks:
            hidden = block(x, hidden)  # [B, width]
        return hidden


class MaskBlock(nn.Module):
    """A layer whose input is multiplied by a mask; see `MaskNet`.

    Shape:
        - x: ``[B, W]``
        - hidden: ``[B, Z]``
        - output: ``[B, width]``

    Args:
        in_features: The width of the row that guides the mask, W.
        masked: The width of what is masked, Z.
        width: The width of the output.
        reduction_ratio: r: the hidden layer of the mask has r·Z units, at least 1.
    """

    def __init__(self, in_features: int, masked: int, width: int, reduction_ratio: float) -> None:
        super().__init__()
        style, aggregated = LayerStyle(), max(1, round(reduction_ratio * masked))
        last = style.linear(aggregated, masked)
        nn.init.ones_(last.bias)
        self.mask = nn.Sequential(style.linear(in_features, aggregated), ReLU(), last)
        self.linear = style.linear(masked, width)
        self.linear.bias = None  # type: ignore[assignment]
        self.after = nn.Sequential(nn.LayerNorm(width), ReLU())

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return ReLU(LN(W(m ⊙ hidden))), for the mask m that x decides."""
        output: Tensor = self.after(self.linear(self.mask(x) * hidden))
        return output
