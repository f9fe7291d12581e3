"""STCH: smooth Tchebycheff scalarization."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.constructor_checks import check_length, task_numbers
from recmtl.balance.shared import Sizes
from recmtl.balance.weighting.base import LossValueBalancer, present_softmax


class STCH(LossValueBalancer):
    r"""Smooth Tchebycheff scalarization: the step follows the losses that are largest.

    Lin, Zhang, Yang, Liu, Wang and Zhang, "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML
    2024, arXiv:2402.19078. The model descends

    $$
    g = \mu \log \sum_{k=1}^{K} \exp\!\left( \frac{\lambda_k (L_k - z_k)}{\mu} \right), \qquad
    w_k = \lambda_k \, \mathrm{softmax}\!\left( \frac{\lambda (L - z)}{\mu} \right)_{\!k}
    $$

    For μ → 0 only the largest λ_k·(L_k − z_k) is trained; for μ → ∞ all are, with weights λ_k/K. Every Pareto optimum
    is that of some preference λ, also where the front is not convex, which no fixed sum of the losses reaches.

    Use it if no task may fall behind, and the losses are of comparable scale, or `preference` makes them so. It costs
    one backward pass.

    Note:
        As in the paper, λ adds up to 1 by default, and Σ w_k is at most the largest λ_k: the gradient is some K times
        smaller than that of `Sum`, which an optimizer such as Adam takes back. LibMTL multiplies by K, and takes the
        logarithm of each loss over its mean in a first epoch.

    Shape:
        - losses: K scalars.
        - weights: `[K]`, at least 0.

    Args:
        mu: The smoothing, μ.
        preference: One positive number per task, λ, taken as given; 1/K each by default (of the present tasks).
        reference: The value that each loss could ideally reach, z; 0 by default.

    Raises:
        ValueError: If an option is out of range, or has another length than the losses.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> STCH(mu=0.01).backward([2 + x[0], 1 + x[1]], shared=[x])
        >>> x.grad  # the larger loss alone, times ½
        tensor([5.0000e-01, 9.6437e-23])
    """

    search_space: ClassVar[Mapping[str, Any]] = {"mu": {"low": 0.01, "high": 10.0, "log": True}}
    given: Tensor

    def __init__(
        self, mu: float = 0.1, preference: Sequence[float] | None = None, reference: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not 0 < mu < torch.inf:
            raise ValueError(f"`mu` must be positive, got {mu}")
        self.mu = mu
        self.preference = None if preference is None else task_numbers("preference", preference, 0.0, above=True)
        self.reference = None if reference is None else task_numbers("reference", reference)
        if self.preference is not None:
            check_length("reference", self.reference, len(self.preference))
        self.register_buffer("given", None, persistent=False)

    def _build(self, sizes: Sizes) -> None:
        super()._build(sizes)
        for name, vector in (("preference", self.preference), ("reference", self.reference)):
            check_length(name, vector, sizes.objectives)
        rows = [self.preference or [1.0] * sizes.objectives, self.reference or [0.0] * sizes.objectives]
        self.given = torch.tensor(rows, dtype=torch.float64)  # rounded as the losses are

    def _weights_of(self, values: Tensor, present: Tensor) -> Tensor:
        preference, reference = self.given.to(values.dtype).unbind()
        if self.preference is None:
            preference = preference / present.sum().clamp(min=1)
        return preference * present_softmax(preference * (values - reference) / self.mu, present)
