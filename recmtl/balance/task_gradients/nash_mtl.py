"""Nash-MTL: the step that tasks agree on when they bargain for it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import masked, on_host
from recmtl.balance.constructor_checks import check_integer
from recmtl.balance.shared import Sizes
from recmtl.balance.solver import fair_shares
from recmtl.balance.task_gradients.gram import GramBalancer, cosines


class NashMTL(GramBalancer):
    r"""Nash bargaining over the step: the direction that maximizes the product of the tasks' gains.

    Navon, Shamsian, Achituve, Maron, Kawaguchi, Chechik and Fetaya, "Multi-Task Learning as a Bargaining Game", ICML
    2022, arXiv:2202.01017, claim 3.1 and algorithm 1. Among all directions of bounded length it takes the one with the
    largest Σ_k log⟨G_k, d⟩, which is d = Σ_k α_k G_k with

    $$
    \sum_{j=1}^{K} M_{kj}\, \alpha_j = \frac{1}{\alpha_k}, \qquad \alpha_k > 0
    $$

    Every task gains, and α_k·⟨G_k, d⟩ = 1 for each. Scaling a loss changes its own α_k, not d, whose norm is √K.
    Private gradients are those of the plain sum.

    Use it if losses differ in scale, or change their scale during training.

    Note:
        The equations are solved by Newton's method, for two tasks by α_k = 1/(n_k·√(1 + cos)), n_k = √M_kk; the paper
        solves a sequence of convex programs. At Pareto-stationary points there is no solution; the products of
        different tasks are multiplied by 1 − 1e-8, which keeps α_k·n_k below about 1e4.

        The authors' code multiplies the losses by α_k, so that the gradients of the towers change, too. Here these are
        those of the plain sum. It keeps α between solves as it was; so does this one, but it solves at once if a task
        is present that has no α yet. A GPU solves in every step, so `every` saves time on a CPU only.

    Shape:
        - losses: K scalars, up to 32.
        - weights: `[K]`.

    Args:
        every: The number of steps from one solution to the next, which keep α.
        max_norm: The largest norm of the shared gradient d, as in the authors' code; None for no limit.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> NashMTL(max_norm=None).backward([x[0], 1000 * x[1]], shared=[x])
        >>> x.grad
        tensor([1.0000, 1.0000])
    """

    search_space: ClassVar[Mapping[str, Any]] = {"max_norm": {"low": 0.1, "high": 10.0, "log": True}}
    solution: Tensor
    steps: Tensor

    def __init__(self, every: int = 1, max_norm: float | None = 1.0) -> None:
        super().__init__()
        check_integer("every", every, least=1)
        if max_norm is not None and not max_norm > 0:
            raise ValueError(f"`max_norm` must be positive or None, got {max_norm}")
        self.every = every
        self.max_norm = max_norm
        self.register_buffer("solution", None)
        self.register_buffer("steps", None)

    def _build(self, sizes: Sizes) -> None:
        super()._build(sizes)
        self.solution = torch.zeros(sizes.objectives)  # 0 for a task that had none yet
        self.steps = torch.tensor(0)

    def _combine(self, gram: Tensor, present: Tensor) -> Tensor:
        weights = self._solution(gram, present)
        if self.max_norm is None:
            return weights
        norm = (weights * (gram @ weights)).sum().clamp(min=0.0).sqrt()
        return weights * (self.max_norm / norm).clamp(max=1.0)

    def _solution(self, gram: Tensor, present: Tensor) -> Tensor:
        """Return α of present tasks, 0 for others: that of this step, or of the last solution."""
        if self.every == 1:
            return _bargained(gram, present)
        due = (self.steps % self.every == 0) | (present & (self.solution == 0)).any()
        self.steps += present.any()
        if not on_host(due) or bool(due):
            solved = _bargained(gram, present)
            self.solution.copy_(torch.where(due & present, solved, self.solution))
        return masked(self.solution.double(), present)


def _bargained(gram: Tensor, present: Tensor) -> Tensor:
    cosine, norms = cosines(gram, present)
    if len(norms) == 2:
        shares = (1 + cosine[0, 1] * (1 - 1e-8)).rsqrt()
    else:
        shares = fair_shares(cosine, torch.ones_like(norms), power=1.0)
    return masked(shares / norms, present)
