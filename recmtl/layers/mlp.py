"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from recmtl.balance.backward import on_host
from recmtl.layers.ensemble import EnsembleInput, EnsembleLinear, EnsembleOutput

Normalization = Literal["none", "batch", "layer"]
Activation = Literal["relu", "gelu", "silu", "tanh", "leaky_relu"]
Initialization = Literal["xavier", "kaiming", "torch"]

ALIGNED = 64  # numbers in a row, of any type
LARGE_WEIGHT = 1 << 20  # elements from which on padding costs a GPU less than it saves

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: ReLU(),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,
}


@dataclass(frozen=True)
class LayerStyle:
    """The style of a model's layers: linear, normalisation, activation, dropout, in this order.

    Args:
        normalization: ``none``, ``batch`` or ``layer``.
        dropout: The probability with which an activation is dropped in training.
        activation: ``relu``, ``gelu``, ``silu``, ``tanh`` or ``leaky_relu``.
        initialization: The initialisation of the weights: ``xavier`` or ``kaiming`` (both uniform), with biases of 0;
            or ``torch``, the default of `torch.nn.Linear` for both.
        ensemble: The number of networks, k, that share the weights (TabM, Gorishniy et al., ICLR 2025). Each has
            adapters of its own, and the mean of their predictions is the model's. 1 is one ordinary network.

    Raises:
        ValueError: An option is not one of these.

    Example:
        >>> LayerStyle(normalization="layer", dropout=0.2)
        LayerStyle(normalization='layer', dropout=0.2, activation='relu', initialization='xavier', ensemble=1)
    """

    normalization: Normalization = "none"
    dropout: float = 0.0
    activation: Activation = "relu"
    initialization: Initialization = "xavier"
    ensemble: int = 1

    def __post_init__(self) -> None:
        """Check the options."""
        for name, choices in {
            "normalization": Normalization,
            "activation": Activation,
            "initialization": Initialization,
        }.items():
            if getattr(self, name) not in get_args(choices):
                raise ValueError(f"`{name}` must be one of {get_args(choices)}, got {getattr(self, name)!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {self.dropout}")
        if self.ensemble < 1:
            raise ValueError(f"`ensemble` must be at least 1, got {self.ensemble}")

    def linear(self, in_features: int, out_features: int, stacked: int = 1, expand: bool = False) -> nn.Linear:
        """Build a linear layer, or `stacked` of them side by side in one, each initialised as if it were alone.

        `expand` makes it the first layer of an ensemble: from ``[B, in_features]`` to rows for all members.

        Raises:
            ValueError: `out_features` is below 1.
        """
        if out_features < 1:
            raise ValueError(f"the width of a layer must be at least 1, got {out_features}")
        if self.ensemble > 1:
            return self._initialized(EnsembleLinear(in_features, out_features, self.ensemble, stacked, expand), stacked)
        large = in_features * out_features * stacked >= LARGE_WEIGHT
        build = PaddedLinear if large and in_features % ALIGNED else nn.Linear
        return self._initialized(build(in_features, out_features * stacked), stacked)

    def output(self, in_features: int, outputs: int = 1) -> nn.Linear:
        """Build the last layer of a tower: outputs without a bias; each member has weights of its own."""
        if self.ensemble > 1:
            return self._initialized(EnsembleOutput(in_features, self.ensemble, outputs), self.ensemble)
        layer = self.linear(in_features, outputs)
        layer.bias = None  # type: ignore[assignment]
        return layer

    def expansion(self, features: int) -> nn.Module:
        """Build what expands rows ``[B, features]`` to those of all members, for networks without a first layer."""
        return EnsembleInput(features, self.ensemble) if self.ensemble > 1 else nn.Identity()

    def _initialized(self, layer: nn.Linear, stacked: int) -> nn.Linear:
        if self.initialization == "torch":
            return layer
        for weight in layer.weight.data.chunk(stacked):
            if self.initialization == "xavier":
                nn.init.xavier_uniform_(weight)
            else:
                nn.init.kaiming_uniform_(weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
        return layer

    def after(self, features: int, stacked: int = 1) -> nn.Sequential:
        """Build what follows a linear layer, or `stacked` of them side by side."""
        steps: list[nn.Module] = []
        if self.normalization == "batch":
            steps.append(nn.BatchNorm1d(features * stacked))
        elif self.normalization == "layer":
            steps.append(nn.LayerNorm(features) if stacked == 1 else StackedLayerNorm(features, stacked))
        steps.append(ACTIVATIONS[self.activation]())
        if self.dropout:
            steps.append(nn.Dropout(self.dropout))
        return nn.Sequential(*steps)


class PaddedLinear(nn.Linear):
    """A linear layer whose inputs and weights a GPU multiplies in rows that are padded by zeros.

    Rows of, say, 2,111 numbers do not start at multiples of 16 bytes, as the fastest kernels of a GPU need it. The
    padding is not part of the weights, and the output is the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        if on_host(x):
            return super().forward(x)
        padding = (0, -self.in_features % ALIGNED)
        return F.linear(F.pad(x, padding), F.pad(self.weight, padding), self.bias)  # [B, in + missing] -> [B, out]


class ReLU(nn.ReLU):
    """A ReLU in place, as no layer before it needs its output again; views of other tensors are copied.

    A forward hook that stores the input therefore stores the output.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the input with its negative entries set to 0."""
        return F.relu(x, inplace=not x._is_view())


class StackedLayerNorm(nn.Module):
    """Several layer normalisations side by side.

    Shape:
        - input and output: ``[B, stacked · features]``
    """

    def __init__(self, features: int, stacked: int) -> None:
        super().__init__()
        self._norm = nn.GroupNorm(stacked, features * stacked)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each of the stacked slices over its features."""
        normalized: Tensor = self._norm(x)
        return normalized


class MLP(nn.Module):
    """A multilayer perceptron: linear layers, each followed by normalisation, activation and dropout.

    Shape:
        - input: ``[B, in_features]``
        - output: ``[B, sizes[-1]]``, or ``[B, in_features]`` without layers; with an ensemble of k, ``[B·k, …]``

    Args:
        in_features: The width of the input.
        sizes: The widths of the layers.
        style: Normalisation, activation, dropout, initialisation and ensemble.
        expand: Whether the rows become those of the ensemble's members here. If not, as in a tower, they have become so
            before, and the input is ``[B·k, in_features]``.

    Example:
        >>> MLP(8, [4, 2])(torch.zeros(3, 8)).shape
        torch.Size([3, 2])
    """

    def __init__(
        self, in_features: int, sizes: Sequence[int], style: LayerStyle | None = None, expand: bool = True
    ) -> None:
        super().__init__()
        style = style or LayerStyle()
        steps: list[nn.Module] = []
        if expand and not sizes and style.ensemble > 1:
            steps.append(style.expansion(in_features))
        for size in sizes:
            steps += [style.linear(in_features, size, expand=expand and not steps), style.after(size)]
            in_features = size
        self.layers = nn.Sequential(*steps)
        self.out_features = in_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the output of the last layer."""
        output: Tensor = self.layers(x)
        return output

    @property
    def last_weights(self) -> tuple[Tensor, ...]:
        """The weight of the last linear layer; empty without layers."""
        return tuple(m.weight for m in self.layers if isinstance(m, nn.Linear))[-1:]
