"""MGDA: the shortest convex combination of the tasks' gradients."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.balance.solver import nonnegative_quadratic
from recmtl.balance.task_gradients.gram import GramBalancer, cosines


class MGDA(GramBalancer):
    r"""Multiple-gradient descent: the convex combination of the tasks' gradients that has the least norm.

    Désidéri, "Multiple-gradient descent algorithm (MGDA) for multiobjective optimization", Comptes Rendus Mathematique
    2012; Sener and Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018, arXiv:1810.04650,
    equation 3 and algorithm 2:

    $$
    \min_{w} \left\lVert \sum_{k=1}^{K} w_k G_k \right\rVert^2, \qquad w_k \ge 0, \quad \sum_{k=1}^{K} w_k = 1
    $$

    To first order a step along the minimizer improves every task, by the same amount if all weights are positive. It
    is 0 at Pareto-stationary points. Private gradients are those of the plain sum.

    Use it if no task may get worse, and tasks with small gradients count most: without normalization a task whose
    gradient is much smaller than the others' decides the step, and its size.

    Note:
        With `normalization` the shared tensors receive Σ_k w_k·G_k/s_k, the shortest combination of the scaled
        gradients. The authors' code finds w from these and then applies it to the gradients themselves, which need not
        improve every task. The minimum is found exactly, not by the Frank-Wolfe steps of algorithm 2.

        The authors' upper bound, which takes gradients at the representation, is not part of this method.

    Shape:
        - losses: K scalars, up to 32.
        - weights: `[K]`.

    Args:
        normalization: What each gradient is divided by before, s_k: `none` for 1, its norm (`l2`), its `loss`, or both
            (`loss+`). A loss that is not positive counts as 1.

    Raises:
        ValueError: If `normalization` is not one of its choices.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> MGDA().backward([x[0], 2 * x[1]], shared=[x])
        >>> x.grad  # weights 4/5 and 1/5
        tensor([0.8000, 0.4000])
    """

    search_space: ClassVar[Mapping[str, Any]] = {"normalization": ["none", "l2", "loss", "loss+"]}

    def __init__(self, normalization: Literal["none", "l2", "loss", "loss+"] = "none") -> None:
        super().__init__()
        if normalization not in ("none", "l2", "loss", "loss+"):
            raise ValueError(f"`normalization` must be 'none', 'l2', 'loss' or 'loss+', got {normalization!r}")
        self.normalization = normalization

    def _combine(self, gram: Tensor, present: Tensor) -> Tensor:
        cosine, norms = cosines(gram, present)
        divisors = self._divisors(norms)
        # Up to its scale, w is the minimizer of ½·wᵀMw − Σ_k w_k; in units of 1/n_k the matrix has a diagonal of 1.
        unit = masked(divisors / norms, present)
        found = nonnegative_quadratic(cosine, torch.where(present, -unit, unit.amax())) * unit
        return found / found.sum() / divisors

    def _divisors(self, norms: Tensor) -> Tensor:
        """Return what each gradient is divided by, float64 `[K]`."""
        divisors = norms if self.normalization in ("l2", "loss+") else torch.ones_like(norms)
        if self.normalization in ("loss", "loss+"):
            assert self.losses is not None
            losses = self.losses.double()
            divisors = divisors * masked(losses, losses > 0, 1.0)
        return divisors
