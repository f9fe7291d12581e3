"""UPGrad: the mean of the gradients, each projected so that it conflicts with no task."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recmtl.balance.solver import nonnegative_quadratic
from recmtl.balance.task_gradients.gram import GramBalancer, cosines


class UPGrad(GramBalancer):
    r"""Unconflicting projection of gradients: each is projected onto the dual cone of all, and the mean is taken.

    Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv:2406.16232, equation 3 and
    proposition 1. The dual cone holds the directions d with ⟨G_j, d⟩ ≥ 0 for every task j. The projection of G_k
    onto it is

    $$
    g_k = \sum_{j=1}^{K} v_j G_j, \qquad v = \operatorname{argmin}_{v \ge e_k} v^\top M v
    $$

    and the shared tensors receive the mean of the g_k, or their sum weighted by `preference`. To first order a step
    makes no task worse. Scaling a loss scales its own g_k alone. Private gradients are those of the plain sum.

    Use it if no task may get worse, and each should count in proportion to its gradient. With two tasks it is `PCGrad`;
    with more it also removes the conflicts that `PCGrad`'s projections create.

    Note:
        The authors' package, torchjd, adds 1e-4 times its trace to the matrix M. Here the addition is 1e-6 of each
        diagonal element (1e-13 in float64), so that a small task next to a large one keeps its direction.

    Shape:
        - losses: K scalars, up to 32.
        - weights: `[K]`.

    Args:
        preference: The share of each task in the mean; equal by default. The shares of present tasks are divided by
            their sum.

    Raises:
        ValueError: If a share is negative or not finite, or all are 0.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> UPGrad().backward([x[0], x[1] - x[0]], shared=[x])
        >>> x.grad  # (1, 0) becomes (½, ½), and (−1, 1) becomes (0, 1)
        tensor([0.2500, 0.7500])
    """

    def __init__(self, preference: Sequence[float] | None = None) -> None:
        super().__init__(preference)

    def _combine(self, gram: Tensor, present: Tensor) -> Tensor:
        cosine, norms = cosines(gram, present)
        # Each row is a problem of its own: x ≥ 0 is what v adds to e_k, in units of n_k/n_j.
        added = nonnegative_quadratic(cosine, torch.where(present, cosine, 1.0))  # [K, K]
        shares = self._shares(present)
        return shares + ((shares * norms).unsqueeze(1) * added).sum(0) / norms
