"""IMTL-G: the step in which all tasks gain equally, relative to their gradients."""

import torch
from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.balance.task_gradients.gram import GramBalancer, cosines


class IMTLG(GramBalancer):
    r"""Impartial learning by gradients: a step with the same projection onto every task's direction.

    Liu, Li, Kuang, Xue, Chen, Yang, Liao and Zhang, "Towards Impartial Multi-task Learning", ICLR 2021, section 3.1.
    The weights have the sum 1 and give g = Σ_k w_k G_k the same component along each unit gradient:

    $$
    \frac{\langle g, G_j \rangle}{\lVert G_j \rVert} = \frac{\langle g, G_k \rangle}{\lVert G_k \rVert}
    \quad \text{for all } j, k, \qquad w \propto M^{-1} n, \quad n_k = \lVert G_k \rVert
    $$

    Private gradients are those of the plain sum.

    Use it if losses differ in scale and gradients seldom conflict. Scaling a loss changes the direction of the step not
    at all.

    Note:
        Weights can be negative. If Σ_k (M⁻¹n)_k is, as the paper's constraint allows where tasks conflict, the common
        component is, too, and every task gets worse; `NashMTL` and `MGDA` exclude that. Where the sum is near 0 the
        step has no bound, and may be hundreds of times longer than any gradient: clip it.

        The paper inverts a difference matrix of the gradients, which gives the same weights. Equal tasks share theirs;
        between opposed tasks g is 0.

    Shape:
        - losses: K scalars, up to 32.
        - weights: `[K]`.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> IMTLG().backward([x[0], 3 * x[1]], shared=[x])
        >>> x.grad  # weights 3/4 and 1/4
        tensor([0.7500, 0.7500])
    """

    def __init__(self) -> None:
        super().__init__()

    def _combine(self, gram: Tensor, present: Tensor) -> Tensor:
        cosine, norms = cosines(gram, present)
        unit = torch.eye(len(norms), dtype=norms.dtype, device=norms.device)
        factor, failed = torch.linalg.cholesky_ex(cosine)
        safe = torch.linalg.cholesky_ex(torch.lerp(cosine, unit, 1e-3))[0]  # should rounding make it indefinite
        factor = torch.where(failed == 0, factor, safe)
        found = torch.cholesky_solve(torch.ones_like(norms).unsqueeze(1), factor).squeeze(1)  # in units of 1/n_k
        found = masked(found / norms, present)
        return found / found.sum()
