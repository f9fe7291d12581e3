"""GLS: the geometric mean of the losses."""

from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.balance.weighting.base import LossValueBalancer


class GLS(LossValueBalancer):
    r"""Geometric loss strategy: the gradient of the losses' geometric mean.

    Chennupati, Sistu, Yogamani and Rawashdeh, "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy
    for Multi-Task Learning", CVPR Workshops 2019, arXiv:1904.08492, equation 2. The model descends

    $$
    L = \left( \prod_{k=1}^{K} L_k \right)^{1/K}, \qquad
    \nabla L = \sum_{k=1}^{K} w_k \nabla L_k, \qquad w_k = \frac{L}{K L_k}
    $$

    so that a loss of another scale changes the direction of the step not at all: all w_k·L_k are equal.

    Use it if the losses differ in scale and none of them comes near 0, where its weight would grow without bound. It
    costs one backward pass.

    Note:
        A loss below 0 has no geometric mean with the others: it is left out of the step and counted in `skipped`.

    Shape:
        - losses: K scalars, positive.
        - weights: `[K]`, positive.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> GLS().backward([x[0], 4 * x[1]], shared=[x])
        >>> x.grad  # of √(x₀·4·x₁)
        tensor([1., 1.])
    """

    def _weights_of(self, values: Tensor, present: Tensor) -> Tensor:
        negative = values < 0
        self.skipped += negative
        compared = present & ~negative
        logs = masked(values.log(), compared)
        count = compared.sum().clamp(min=1)
        return masked((logs.sum() / count - logs).exp() / count, compared)
