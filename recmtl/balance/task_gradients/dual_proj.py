"""DualProj: the mean gradient, projected so that it conflicts with no task."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recmtl.balance.solver import nonnegative_quadratic
from recmtl.balance.task_gradients.gram import GramBalancer, cosines


class DualProj(GramBalancer):
    r"""Projection of the mean gradient onto the dual cone of the tasks' gradients.

    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, arXiv:1706.08840, equation
    11; named and compared in Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024,
    arXiv:2406.16232. Of all directions d with ⟨G_j, d⟩ ≥ 0 for every task j, it takes the one nearest to the mean:

    $$
    g = \sum_{k=1}^{K} v_k G_k, \qquad v = \operatorname{argmin}_{v \ge p} v^\top M v, \qquad p_k = \tfrac{1}{K}
    $$

    Without conflict with the mean it is the mean itself. To first order a step makes no task worse. Private gradients
    are those of the plain sum.

    Use it if no task may get worse and the mean should be changed as little as possible. A task with a large gradient
    decides the mean; `UPGrad` treats each gradient by itself.

    Note:
        The authors' package of the second paper, torchjd, adds 1e-4 times its trace to the matrix M; the margin γ of
        the first is 0 here.

    Shape:
        - losses: K scalars, up to 32.
        - weights: `[K]`.

    Args:
        preference: The share of each task in the mean, p; equal by default. The shares of present tasks are divided by
            their sum.

    Raises:
        ValueError: If a share is negative or not finite, or all are 0.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> DualProj().backward([x[0] + x[1], -3 * x[0]], shared=[x])
        >>> x.grad  # the mean (−1, ½) is against (1, 1)
        tensor([-0.7500,  0.7500])
    """

    def __init__(self, preference: Sequence[float] | None = None) -> None:
        super().__init__(preference)

    def _combine(self, gram: Tensor, present: Tensor) -> Tensor:
        cosine, norms = cosines(gram, present)
        shares = self._shares(present)
        slopes = cosine @ (shares * norms)  # ⟨G_k, mean⟩/n_k
        added = nonnegative_quadratic(cosine, torch.where(present, slopes, norms.amax()))
        return shares + added / norms
