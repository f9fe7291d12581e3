"""The two streams of FinalMLP."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recmtl.layers.interaction import Interaction
from recmtl.layers.mlp import MLP, LayerStyle


class FinalMLP(Interaction):
    r"""The two streams of FinalMLP: two MLPs, each with a gate on its input, and bilinear products of their outputs.

    Mao et al., "FinalMLP: An Enhanced Two-Stream MLP Model for CTR Prediction", AAAI 2023, arXiv:2304.00902. For the
    streams s = 1, 2 and the heads j = 1…k, with o_s cut into k parts o_{s,j}:

    $$
    h_s = 2\sigma(\operatorname{Gate}_s(x)) \odot x, \qquad o_s = \operatorname{MLP}_s(h_s), \qquad
    f_j = o_{1,j}^\top W_j\, o_{2,j}
    $$

    Note:
        The paper predicts σ(b + w₁ᵀo₁ + w₂ᵀo₂ + Σ_j f_j) for one task. This block stands before a trunk, so it returns
        the vector [o₁, o₂, f₁ … f_k], of which the paper's logit is a linear function with weights w₁, w₂ and 1. The
        paper's gates read chosen features or learned constants, which differ by stream; those here read all features.

    Shape:
        - input: ``[B, W]``
        - output: ``[B, D₁ + D₂ + k]``, for streams of widths D₁ and D₂

    Args:
        in_features: The width of the input, W.
        layers: The widths of the layers of the first stream.
        second_layers: Those of the second stream; ``None`` for the same.
        heads: k, the number of bilinear products; it divides D₁ and D₂.
        gate_layers: The widths of the hidden layers of each gate.
        style: Normalisation, activation, dropout and initialisation of streams and gates.

    Raises:
        ValueError: A stream has no layers, `heads` is below 1 or does not divide the widths of the streams, or the
            style is that of an ensemble.

    Example:
        >>> FinalMLP(8, layers=[16, 6], second_layers=[4], heads=2)(torch.zeros(3, 8)).shape
        torch.Size([3, 12])
    """

    def __init__(
        self,
        in_features: int,
        layers: Sequence[int] = (128, 64),
        second_layers: Sequence[int] | None = None,
        heads: int = 2,
        gate_layers: Sequence[int] = (64,),
        style: LayerStyle = LayerStyle(),
    ) -> None:
        streams = [layers, layers if second_layers is None else second_layers]
        check_streams(streams, heads, style)
        widths = [sizes[-1] for sizes in streams]
        super().__init__(in_features, sum(widths) + heads)
        self.gates = nn.ModuleList(feature_gate(in_features, gate_layers, style) for _ in streams)
        self.streams = nn.ModuleList(MLP(in_features, sizes, style) for sizes in streams)
        self.heads = heads
        first, second = (width // heads for width in widths)
        bound = (6 / (first + second)) ** 0.5  # Xavier's, for each head
        self.bilinear = nn.Parameter(torch.empty(heads, first, second).uniform_(-bound, bound))  # W_j

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of the streams and the bilinear products, ``[B, D₁ + D₂ + k]``."""
        first, second = (  # o_1 [B, D₁], o_2 [B, D₂]
            stream(2 * gate(x).sigmoid() * x) for gate, stream in zip(self.gates, self.streams, strict=True)
        )
        parts = [torch.unflatten(output, 1, (self.heads, -1)) for output in (first, second)]  # [B, k, D / k]
        products = torch.einsum("bki,kij->bkj", parts[0], self.bilinear) * parts[1]  # [B, k, D₂ / k]
        return torch.cat([first, second, products.sum(2)], 1)


def feature_gate(features: int, hidden: Sequence[int], style: LayerStyle) -> nn.Sequential:
    """Build the MLP of a gate, from ``[B, W]`` to ``[B, W]``."""
    layers = MLP(features, hidden, style)
    return nn.Sequential(layers, style.linear(layers.out_features, features))


def check_streams(streams: Sequence[Sequence[int]], heads: int, style: LayerStyle) -> None:
    """Check the options of two streams."""
    if style.ensemble > 1:
        raise ValueError(
            f"the members of an ensemble share the interaction: `ensemble` of its `style` must be 1, got "
            f"{style.ensemble}"
        )
    for name, sizes in zip(("layers", "second_layers"), streams, strict=True):
        if not sizes:
            raise ValueError(f"`{name}` must hold at least one layer, got none")
        if heads < 1 or sizes[-1] % heads:
            raise ValueError(f"`heads` must be at least 1 and divide {sizes[-1]}, the last of `{name}`, got {heads}")
