"""FairGrad: the step that is fair to the tasks in the sense of α-fairness."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.balance.solver import fair_shares
from recmtl.balance.task_gradients.gram import GramBalancer, cosines


class FairGrad(GramBalancer):
    r"""α-fair division of the step: from the largest sum of gains to the largest least gain.

    Ban and Ji, "Fair Resource Allocation in Multi-Task Learning", ICML 2024, arXiv:2402.15638, equations 5 and 6. Among
    all directions of bounded length it takes the one with the largest Σ_k ⟨G_k, d⟩^(1−α)/(1 − α), which is
    d = Σ_k w_k G_k with

    $$
    \sum_{j=1}^{K} M_{kj}\, w_j = w_k^{-1/\alpha}, \qquad w_k > 0
    $$

    Every task gains. With α = 1 it is `NashMTL` without a limit on the norm; a larger α gives more to tasks that gain
    least, as `MGDA` does, a smaller one to those that gain most. Private gradients are those of the plain sum.

    Use it to choose between the sum of the tasks' progress and that of the slowest.

    Note:
        The equations are solved by Newton's method; the authors' code hands them to a least-squares solver. At
        Pareto-stationary points there is no solution; the products of different tasks are multiplied by 1 − 1e-8,
        which bounds w. The authors' code multiplies the losses by w, so that the gradients of the towers change, too.

        If α is far from 1, the norm of d depends on the size of the gradients: it is that of one gradient to the power
        (1 − α)/(1 + α).

    Shape:
        - losses: K scalars, up to 32.
        - weights: `[K]`.

    Args:
        alpha: The kind of fairness, α, from 0.1 to 10.

    Raises:
        ValueError: If `alpha` is out of range.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> FairGrad(alpha=3.0).backward([x[0], 4 * x[1]], shared=[x])
        >>> x.grad  # w = (1, 4^(−3/2))
        tensor([1.0000, 0.5000])
    """

    search_space: ClassVar[Mapping[str, Any]] = {"alpha": {"low": 0.1, "high": 10.0, "log": True}}

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        if not 0.1 <= alpha <= 10:
            raise ValueError(f"`alpha` must be in [0.1, 10], got {alpha}")
        self.alpha = alpha

    def _combine(self, gram: Tensor, present: Tensor) -> Tensor:
        cosine, norms = cosines(gram, present)
        power = 1 / self.alpha
        # With u_k = n_k·w_k the equations are u_kᵖ·(Qu)_k = n_k^(p−1), here for norms in units of the largest.
        size = masked(norms, present).amax()
        target = masked((norms / size) ** (power - 1), present, 1.0)
        shares = fair_shares(cosine, target, power)
        return size ** ((power - 1) / (power + 1)) * shares / norms
