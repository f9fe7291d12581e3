"""Aligned-MTL: gradients made orthogonal and of one size before they are summed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.balance.eigen import eigen
from recmtl.balance.task_gradients.gram import RIDGE, GramBalancer, cosines


class AlignedMTL(GramBalancer):
    r"""Alignment of the gradients' principal components: the nearest system of gradients whose condition number is 1.

    Senushkin, Patakin, Kuznetsov and Konushin, "Independent Component Alignment for Multi-Task Learning", CVPR 2023,
    arXiv:2305.19000, equation 11 and algorithm 1. With M = VΛVᵀ, λ the least eigenvalue that is not 0, and p the
    shares of the tasks,

    $$
    w = \sqrt{\lambda}\, V \Lambda^{-1/2} V^\top p, \qquad p_k = \tfrac{1}{K}
    $$

    where Λ^(−1/2) leaves out eigenvalues of 0. The aligned gradients are orthogonal and of one size, so that no
    task dominates, and none conflicts with another. Private gradients are those of the plain sum.

    Use it if gradients both conflict and differ in size, and steps may be as small as the least principal component.

    Note:
        Which eigenvalues are 0 is decided by the cosines, those below K·2e-6 (K·2e-13 in float64), as rounding leaves
        a small gradient's direction as exact as that of a large one. The authors' code compares the eigenvalues of M
        with the rounding error of the largest, so that a task with gradients some 1000 times smaller than another's
        drops out in float32; here one drops out below 1e-6 times the largest. A GPU computes the eigenvalues by Jacobi
        rotations, without waiting.

    Shape:
        - losses: K scalars, up to 32.
        - weights: `[K]`.

    Args:
        preference: The share of each task in the sum of aligned gradients; equal by default. The shares of present
            tasks are divided by their sum.

    Raises:
        ValueError: If a share is negative or not finite, or all are 0.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> AlignedMTL().backward([x[0], 5 * x[1]], shared=[x])
        >>> x.grad  # both gradients brought to the size of the first
        tensor([0.5000, 0.5000])
    """

    def __init__(self, preference: Sequence[float] | None = None) -> None:
        super().__init__(preference)

    def _combine(self, gram: Tensor, present: Tensor) -> Tensor:
        cosine, norms = cosines(gram, present)
        values, vectors = eigen(cosine)
        values = masked(values, values > 2 * len(present) * self.rounding)
        sizes = masked(norms / masked(norms, present).amax(), present)
        values, vectors = eigen(sizes.unsqueeze(1) * ((vectors * values) @ vectors.mT) * sizes)  # M without rounding
        values = masked(values, values > 2 * len(present) * RIDGE[torch.float64] * values.amax(), torch.inf)
        scales = (values.amin() / values).sqrt()  # 1 for the least, 0 for eigenvalues of 0
        return (vectors * (scales * (self._shares(present) * vectors.mT).sum(1))).sum(1)
