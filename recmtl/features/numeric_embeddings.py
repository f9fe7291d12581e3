"""Embeddings of numbers (Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", 2022).

B rows, F numeric features, each embedded by parameters of its own into d numbers, its *width*.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from recmtl.balance.shared import SharedTensor
from recmtl.data.columns.numeric import transformed
from recmtl.layers import parameters_of
from recmtl.schema import FittedSchema


class NumericEmbedding(nn.Module, ABC):
    """What embeds the numeric features, each by itself: dimension 0 of every parameter counts the features.

    Attributes:
        features: F.
        out_features: F · d.

    Args:
        schema: The fitted schema.
        width: d, the width of an embedding.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(self, schema: FittedSchema, width: int) -> None:
        super().__init__()
        at_least_one("width", width)
        self.features = len(schema.numeric)
        self.out_features = self.features * width

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Embed the features ``[B, F]`` into ``[B, F, d]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Embed the features ``[B, F]`` and set the embeddings side by side, ``[B, F · d]``."""
        return self.embed(x).flatten(1)

    def shared(self) -> list[SharedTensor]:
        """Name the parameters, which count feature by feature."""
        return parameters_of(self, self.features)


class PlainNumbers(NumericEmbedding):
    """The numbers as they were prepared, side by side: f_i(x_i) = x_i.

    Shape:
        - input and output: ``[B, F]``

    Args:
        schema: The fitted schema.
    """

    def __init__(self, schema: FittedSchema) -> None:
        super().__init__(schema, width=1)

    def embed(self, x: Tensor) -> Tensor:
        """Take the features as they are."""
        return x[..., None]  # [B, F, 1]


class LinearEmbeddings(NumericEmbedding):
    """A vector times the number, and a vector: f_i(x_i) = w_i·x_i + b_i ("L" in the paper).

    Shape:
        - input: ``[B, F]``
        - output: ``[B, F · d]``

    Args:
        schema: The fitted schema.
        width: d, the width of an embedding.

    Raises:
        ValueError: `width` is below 1.

    Example:
        >>> import pandas as pd, recmtl
        >>> schema = recmtl.Schema([recmtl.Numeric("price"), recmtl.Numeric("age")], [recmtl.Task("ctr", "click")])
        >>> frame = pd.DataFrame({"price": [1.0, 2, 5], "age": [30, 40, 20], "click": [0, 1, 1]})
        >>> fitted = recmtl.prepare(schema, frame, holdout=0).schema
        >>> LinearEmbeddings(fitted, width=4)(torch.zeros(3, 2)).shape
        torch.Size([3, 8])
    """

    def __init__(self, schema: FittedSchema, width: int = 8) -> None:
        super().__init__(schema, width)
        self.weight = uniform(self.features, width, inputs=width)
        self.bias = uniform(self.features, width, inputs=width)

    def embed(self, x: Tensor) -> Tensor:
        """Embed the features."""
        return torch.addcmul(self.bias, self.weight, x[..., None])  # [B, F, d]


class LinearReLUEmbeddings(NumericEmbedding):
    """`LinearEmbeddings`, cut off below zero: f_i(x_i) = ReLU(w_i·x_i + b_i) ("LR" in the paper).

    Shape:
        - input: ``[B, F]``
        - output: ``[B, F · d]``

    Args:
        schema: The fitted schema.
        width: d, the width of an embedding.

    Raises:
        ValueError: `width` is below 1.

    Example:
        >>> import pandas as pd, recmtl
        >>> schema = recmtl.Schema([recmtl.Numeric("price")], [recmtl.Task("ctr", "click")])
        >>> fitted = recmtl.prepare(schema, pd.DataFrame({"price": [1.0, 2], "click": [0, 1]}), holdout=0).schema
        >>> bool((LinearReLUEmbeddings(fitted)(torch.randn(3, 1)) >= 0).all())
        True
    """

    def __init__(self, schema: FittedSchema, width: int = 8) -> None:
        super().__init__(schema, width)
        self.linear = LinearEmbeddings(schema, width)

    def embed(self, x: Tensor) -> Tensor:
        """Embed the features."""
        return self.linear.embed(x).relu()


class PiecewiseLinearEmbeddings(NumericEmbedding):
    """The share of each bin that lies below the number, and a linear layer: f_i(x_i) = W_i·PLE(x_i) + b_i ("Q-L").

    PLE(x) = [e_1, …, e_T] (section 3.2) with e_t = (x − b_{t−1}) / (b_t − b_{t−1}), cut to 0 below bin t and to 1 above
    it; the first bin has no end below and the last none above. The edges b_t are quantiles of the training rows; those
    that are equal are one, so that a feature has at most T bins.

    Shape:
        - input: ``[B, F]``
        - output: ``[B, F · d]``; between them lies ``[B, F, T]``

    Args:
        schema: The fitted schema.
        width: d, the width of an embedding.
        bins: T, the number of bins.

    Raises:
        ValueError: `width` or `bins` is below 1.

    Example:
        >>> import pandas as pd, recmtl
        >>> schema = recmtl.Schema([recmtl.Numeric("price", transform="none")], [recmtl.Task("ctr", "click")])
        >>> frame = pd.DataFrame({"price": [1.0, 2, 5], "click": [0, 1, 1]})
        >>> embeddings = PiecewiseLinearEmbeddings(recmtl.prepare(schema, frame, holdout=0).schema, bins=2)
        >>> embeddings.encode(torch.tensor([[1.0], [1.5], [3.5], [8.0]]))[:, 0]
        tensor([[0.0000, 0.0000],
                [0.5000, 0.0000],
                [1.0000, 0.5000],
                [1.0000, 2.0000]])
    """

    low: Tensor
    rate: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, schema: FittedSchema, width: int = 8, bins: int = 32) -> None:
        super().__init__(schema, width)
        at_least_one("bins", bins)
        low, rate = torch.zeros(2, self.features, bins)  # 1 / (b_t − b_{t−1}), 0 for bins that a feature lacks
        least, most = torch.zeros(self.features, bins), torch.ones(self.features, bins)
        for row, edges in enumerate(bin_edges(schema, bins)):
            own = len(edges) - 1
            low[row, :own], rate[row, :own] = edges[:-1], 1 / edges.diff()
            if own:
                least[row, 0], most[row, own - 1] = -math.inf, math.inf
        for name, value in {"low": low, "rate": rate, "least": least, "most": most}.items():
            self.register_buffer(name, value, persistent=False)
        self.weight = uniform(self.features, bins, width, inputs=bins)
        self.bias = uniform(self.features, width, inputs=bins)

    def encode(self, x: Tensor) -> Tensor:
        """Give PLE of each feature, ``[B, F, T]``."""
        return ((x[..., None] - self.low) * self.rate).clamp(self.least, self.most)

    def embed(self, x: Tensor) -> Tensor:
        """Embed the features."""
        return linear(self.encode(x), self.weight) + self.bias  # [B, F, T] · [F, T, d] -> [B, F, d]


class PeriodicEmbeddings(NumericEmbedding):
    """Waves of learned frequencies, a linear layer and ReLU: f_i(x_i) = ReLU(W_i·Periodic(x_i) + b_i) ("PLR").

    Periodic(x) = [sin v, cos v] with v = 2π·[c_1·x, …, c_k·x] (section 3.3); the c start at N(0, σ²).

    Shape:
        - input: ``[B, F]``
        - output: ``[B, F · d]``; between them lies ``[B, F, 2k]``

    Args:
        schema: The fitted schema.
        width: d, the width of an embedding.
        frequencies: k, how many of each feature.
        sigma: σ, the size of the frequencies at the start. What is best depends on the data: try it from 0.01 to 10.

    Raises:
        ValueError: `width` or `frequencies` is below 1, or `sigma` is not above 0.

    Example:
        >>> import pandas as pd, recmtl
        >>> schema = recmtl.Schema([recmtl.Numeric("price")], [recmtl.Task("ctr", "click")])
        >>> fitted = recmtl.prepare(schema, pd.DataFrame({"price": [1.0, 2], "click": [0, 1]}), holdout=0).schema
        >>> PeriodicEmbeddings(fitted, width=4, frequencies=3)(torch.zeros(5, 1)).shape
        torch.Size([5, 4])
    """

    def __init__(self, schema: FittedSchema, width: int = 8, frequencies: int = 16, sigma: float = 0.1) -> None:
        super().__init__(schema, width)
        at_least_one("frequencies", frequencies)
        if not 0 < sigma < math.inf:
            raise ValueError(f"`sigma` must be above 0, got {sigma}")
        self.frequencies = nn.Parameter(torch.randn(self.features, frequencies).mul_(sigma))
        self.weight = uniform(self.features, 2 * frequencies, width, inputs=2 * frequencies)
        self.bias = uniform(self.features, width, inputs=2 * frequencies)

    def embed(self, x: Tensor) -> Tensor:
        """Embed the features."""
        v = 2 * math.pi * self.frequencies * x[..., None]  # [B, F, k]
        waves = torch.cat([v.sin(), v.cos()], dim=-1)  # [B, F, 2k]
        return (linear(waves, self.weight) + self.bias).relu()  # [B, F, d]


def at_least_one(name: str, value: int) -> None:
    """Check a size.

    Raises:
        ValueError: It is below 1.
    """
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}")


def uniform(*shape: int, inputs: int) -> nn.Parameter:
    """Draw a parameter from U(−n^−½, n^−½) for n inputs."""
    return nn.Parameter(torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5))


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Apply a linear map of its own to each feature, ``[B, F, n]`` and ``[F, n, d]`` to ``[B, F, d]``."""
    return torch.einsum("bfn,fnd->bfd", x, weight)


def bin_edges(schema: FittedSchema, bins: int) -> list[Tensor]:
    """Give the edges of at most so many bins of each numeric feature, as a model reads it: distinct and rising."""
    found = []
    for feature in schema.numeric:
        edges = np.quantile(schema.quantiles[feature.name], np.linspace(0, 1, bins + 1), method="inverted_cdf")
        found.append(torch.from_numpy(np.unique(transformed(edges, feature, schema).astype(np.float32))))
    return found
