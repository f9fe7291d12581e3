"""Embeddings of numeric features.

Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features in Tabular Deep Learning", NeurIPS 2022,
arXiv:2203.05556. B rows, F numeric features, each embedded by its own parameters into d numbers, its *width*.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from recmtl.balance.shared import SharedTensor
from recmtl.data.columns.numeric import number_encoders
from recmtl.schema import FittedSchema


class NumericEmbedding(nn.Module, ABC):
    """The base class of embeddings of numeric features: each feature i is embedded by its own function f_i.

    A subclass implements `embed`. Dimension 0 of every parameter runs over the features, so that balancers treat
    each feature's parameters as tensors of their own; a subclass with another layout overrides `shared_tensors`.

    Attributes:
        features: The number of features, F.
        out_features: The width of the output, F · d.

    Args:
        schema: The fitted schema.
        width: d, the width of an embedding.

    Raises:
        ValueError: `width` is below 1.
    """

    def __init__(self, schema: FittedSchema, width: int) -> None:
        super().__init__()
        check_at_least_1("width", width)
        self.features = len(schema.numeric)
        self.out_features = self.features * width

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Embed the features ``[B, F]`` into ``[B, F, d]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Embed the features ``[B, F]`` and concatenate the embeddings, ``[B, F · d]``."""
        return self.embed(x).flatten(1)

    def fields(self, x: Tensor) -> list[Tensor]:
        """Return what the output has of each feature, F of ``[B, d]``."""
        return list(self.embed(x).unbind(1))

    def shared_tensors(self) -> list[SharedTensor]:
        """Return the parameters as shared tensors with one part per feature."""
        return [SharedTensor(parameter, self.features) for parameter in self.parameters()]


class PlainNumbers(NumericEmbedding):
    r"""The numbers as they were prepared.

    $$
    f_i(x_i) = x_i
    $$

    Shape:
        - input and output: ``[B, F]``

    Args:
        schema: The fitted schema.
    """

    def __init__(self, schema: FittedSchema) -> None:
        super().__init__(schema, width=1)

    def embed(self, x: Tensor) -> Tensor:
        """Return the features as they are, ``[B, F, 1]``."""
        return x[..., None]  # [B, F, 1]


class LinearEmbeddings(NumericEmbedding):
    r"""Linear embeddings, "L" in the paper.

    $$
    f_i(x_i) = w_i x_i + b_i
    $$

    Gorishniy, Rubachev and Babenko, NeurIPS 2022, arXiv:2203.05556, section 3.4, for weight vectors w_i and b_i of
    width d.

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
        self.weight = uniform_parameter(self.features, width, inputs=width)
        self.bias = uniform_parameter(self.features, width, inputs=width)

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings, ``[B, F, d]``."""
        return torch.addcmul(self.bias, self.weight, x[..., None])  # [B, F, d]


class LinearReLUEmbeddings(NumericEmbedding):
    r"""Linear embeddings with ReLU, "LR" in the paper.

    $$
    f_i(x_i) = \operatorname{ReLU}(w_i x_i + b_i)
    $$

    Gorishniy, Rubachev and Babenko, NeurIPS 2022, arXiv:2203.05556, section 3.4.

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
        """Return the embeddings, ``[B, F, d]``."""
        return self.linear.embed(x).relu()


class PiecewiseLinearEmbeddings(NumericEmbedding):
    r"""Linear embeddings of a piecewise linear encoding over quantile bins, "Q-L" in the paper.

    Gorishniy, Rubachev and Babenko, NeurIPS 2022, arXiv:2203.05556, section 3.2:

    $$
    f_i(x_i) = W_i \operatorname{PLE}(x_i) + b_i, \qquad \operatorname{PLE}(x) = [e_1, \dots, e_T], \qquad
    e_t = \frac{x - b_{t-1}}{b_t - b_{t-1}}
    $$

    e_t is clipped to 0 below bin t and to 1 above it; the first bin is open below and the last above. The edges b_t are
    quantiles of the training rows. Equal edges are merged, so a feature has at most T bins.

    Shape:
        - input: ``[B, F]``
        - output: ``[B, F · d]``; between them lies ``[B, F, T]``

    Args:
        schema: The fitted schema.
        width: d, the width of an embedding.
        bins: T, the largest number of bins.

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
        check_at_least_1("bins", bins)
        low, rate = torch.zeros(2, self.features, bins)  # rate: 1 / (b_t − b_{t−1}), 0 for bins that a feature lacks
        least, most = torch.zeros(self.features, bins), torch.ones(self.features, bins)
        for row, edges in enumerate(bin_edges(schema, bins)):
            own = len(edges) - 1
            low[row, :own], rate[row, :own] = edges[:-1], 1 / edges.diff()
            if own:
                least[row, 0], most[row, own - 1] = -math.inf, math.inf
        for name, value in {"low": low, "rate": rate, "least": least, "most": most}.items():
            self.register_buffer(name, value, persistent=False)
        self.weight = uniform_parameter(self.features, bins, width, inputs=bins)
        self.bias = uniform_parameter(self.features, width, inputs=bins)

    def encode(self, x: Tensor) -> Tensor:
        """Return PLE of each feature, ``[B, F, T]``."""
        return ((x[..., None] - self.low) * self.rate).clamp(self.least, self.most)

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings, ``[B, F, d]``."""
        return linear_per_feature(self.encode(x), self.weight) + self.bias  # [B, F, T] · [F, T, d] -> [B, F, d]


class PeriodicEmbeddings(NumericEmbedding):
    r"""Linear embeddings with ReLU of sines and cosines of learned frequencies, "PLR" in the paper.

    Gorishniy, Rubachev and Babenko, NeurIPS 2022, arXiv:2203.05556, section 3.3:

    $$
    f_i(x_i) = \operatorname{ReLU}(W_i \operatorname{Periodic}(x_i) + b_i), \qquad
    \operatorname{Periodic}(x) = [\sin v, \cos v], \qquad v = 2\pi\, [c_1 x, \dots, c_k x]
    $$

    The frequencies c are learned and start at N(0, σ²).

    Shape:
        - input: ``[B, F]``
        - output: ``[B, F · d]``; between them lies ``[B, F, 2k]``

    Args:
        schema: The fitted schema.
        width: d, the width of an embedding.
        frequencies: k, the number of frequencies per feature.
        sigma: σ, the scale of the initial frequencies. The best value depends on the data: try 0.01 to 10.

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
        check_at_least_1("frequencies", frequencies)
        if not 0 < sigma < math.inf:
            raise ValueError(f"`sigma` must be above 0, got {sigma}")
        self.frequencies = nn.Parameter(torch.randn(self.features, frequencies).mul_(sigma))
        self.weight = uniform_parameter(self.features, 2 * frequencies, width, inputs=2 * frequencies)
        self.bias = uniform_parameter(self.features, width, inputs=2 * frequencies)

    def embed(self, x: Tensor) -> Tensor:
        """Return the embeddings, ``[B, F, d]``."""
        v = 2 * math.pi * self.frequencies * x[..., None]  # [B, F, k]
        waves = torch.cat([v.sin(), v.cos()], dim=-1)  # [B, F, 2k]
        return (linear_per_feature(waves, self.weight) + self.bias).relu()  # [B, F, d]


def check_at_least_1(name: str, value: int) -> None:
    """Check that a size is at least 1."""
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}")


def uniform_parameter(*shape: int, inputs: int) -> nn.Parameter:
    """Return a parameter drawn from U(−n^−½, n^−½) for n inputs."""
    return nn.Parameter(torch.empty(shape).uniform_(-(inputs**-0.5), inputs**-0.5))


def linear_per_feature(x: Tensor, weight: Tensor) -> Tensor:
    """Return each feature times its own weight: ``[B, F, n]`` and ``[F, n, d]`` to ``[B, F, d]``."""
    return torch.einsum("bfn,fnd->bfd", x, weight)


def bin_edges(schema: FittedSchema, bins: int) -> list[Tensor]:
    """Return the distinct, rising edges of at most `bins` bins of each numeric feature, in the model's units."""
    found = []
    for feature in schema.numeric:
        edges = np.quantile(schema.quantiles[feature.name], np.linspace(0, 1, bins + 1), method="inverted_cdf")
        found.append(torch.from_numpy(np.unique(number_encoders(schema)[feature.name](edges).astype(np.float32))))
    return found
