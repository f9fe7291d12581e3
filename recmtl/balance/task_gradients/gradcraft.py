"""GradCraft: gradients brought to one size, then turned so that no two of them conflict."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recmtl.balance.backward import is_finite, masked
from recmtl.balance.task_gradients.gram import RIDGE, cosines
from recmtl.balance.task_gradients.projection import ProjectionBalancer


class GradCraft(ProjectionBalancer):
    r"""Gradient crafting: sizes brought towards the largest, then all conflicts of a task removed by one projection.

    Bai, Zhang, Feng, Lu, Zang, Lei and Song, "GradCraft: Elevating Multi-task Recommendations through Holistic Gradient
    Crafting", KDD 2024, arXiv:2407.19682, in the form of the authors' code. First the sizes:

    $$
    \hat{G}_k = \left[ \tau\, \frac{\max_j \lVert G_j \rVert}{\lVert G_k \rVert} + (1 - \tau) \right] G_k
    $$

    Then the directions. Let C be the tasks whose Ĝ_j conflicts with Ĝ_k. The smallest change of Ĝ_k after which it
    agrees with all of them has the weights w that solve a linear system of their inner products:

    $$
    g_k = \hat{G}_k + \sum_{j \in C} w_j \hat{G}_j, \qquad
    \langle g_k, \hat{G}_j \rangle = \varepsilon\, \lVert \hat{G}_k \rVert \lVert \hat{G}_j \rVert
    \quad \text{for all } j \in C
    $$

    The shared tensors receive the sum of the g_k, or their mean over the tasks that reach the part. Private gradients
    are those of the plain sum.

    Use it in place of `PCGrad` with more than two tasks: there the last of several projections can bring back a
    conflict that an earlier one removed. With two tasks, `tau=0` and `epsilon=0` it is `PCGrad`.

    Note:
        With τ = 1 a task whose gradient is almost 0 counts as much as the largest.

        If the tasks in C almost oppose each other, only a very long vector can agree with all of them by ε. What agrees
        with them is therefore no longer than Ĝ_k, so that ‖g_k‖ ≤ √2·‖Ĝ_k‖, and ε is reached as far as possible. The
        diagonal of the system is enlarged by a factor 1 + K·1e-6, or 1 + K·1e-13 if the shared tensors are float64:
        equal tasks make it singular. The authors' code inverts it as it is; where that is possible the results are the
        same, to 2e-12 in float64.

        Sizes are those of all shared parts together, as in the authors' code, or with the scope `part` those of each
        part.

    Shape:
        - losses: K scalars.
        - weights: `[K]`.

    Args:
        tau: How far sizes are brought to the largest, τ: 0 leaves them, 1 makes them equal.
        epsilon: The wanted agreement, ε: the cosine with gradients that conflicted, in terms of the size of Ĝ_k.
        reduction: `mean` or `sum` of the g_k.
        scope: Whether gradients are compared as a `whole`, over all shared parts, or `part` by part.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> GradCraft(reduction="sum").backward([4 * x[0], 3 * x[1] - 4 * x[0]], shared=[x])
        >>> x.grad  # sizes 5 and 5: (5, 0) becomes (1.8, 2.4), and (−4, 3) becomes (0, 3)
        tensor([1.8000, 5.4000])
    """

    search_space: ClassVar[Mapping[str, Any]] = {
        "tau": {"low": 0.0, "high": 1.0},
        "epsilon": {"low": 0.0, "high": 1.0},
        "reduction": ["mean", "sum"],
    }

    def __init__(
        self,
        tau: float = 1.0,
        epsilon: float = 0.0,
        reduction: Literal["mean", "sum"] = "mean",
        scope: Literal["whole", "part"] = "whole",
    ) -> None:
        super().__init__(reduction, scope)
        if not 0 <= tau <= 1:
            raise ValueError(f"`tau` must be in [0, 1], got {tau}")
        if not 0 <= epsilon <= 1:
            raise ValueError(f"`epsilon` must be in [0, 1], got {epsilon}")
        self.tau = tau
        self.epsilon = epsilon

    def _coefficients(self, gram: Tensor, present: Tensor) -> Tensor:
        dtype, gram = gram.dtype, gram.double()
        squares = gram.diagonal(dim1=1, dim2=2)  # [G, K]
        reached = (squares > 0) & is_finite(squares)  # in each group
        cosine, norms = cosines(gram, reached)
        largest = masked(norms, reached).amax(1, keepdim=True)
        sizes = torch.where(reached, self.tau * largest + (1 - self.tau) * norms, norms)
        changes = self._changes(cosine, RIDGE[dtype] * len(present))
        unit = torch.eye(len(present), dtype=gram.dtype, device=gram.device)
        return ((unit + changes) * (sizes.unsqueeze(2) / norms.unsqueeze(1))).to(dtype)

    def _changes(self, cosine: Tensor, ridge: float) -> Tensor:
        """Return the weights of unit gradients that are added to each, `[G, K, K]`, from cosines `[G, K, K]`."""
        conflicts = cosine < 0  # [G, K, K]
        unit = torch.eye(cosine.shape[-1], dtype=cosine.dtype, device=cosine.device)
        system = masked(cosine.unsqueeze(1), conflicts.unsqueeze(3) & conflicts.unsqueeze(2))  # [G, K, K, K]
        system = torch.diagonal_scatter(system, torch.ones_like(cosine) + ridge, dim1=2, dim2=3)
        factor, failed = torch.linalg.cholesky_ex(system)
        factor = torch.where(failed[..., None, None] == 0, factor, unit)
        right = masked(torch.stack([-cosine, torch.ones_like(cosine)], 3), conflicts.unsqueeze(3))  # [G, K, K, 2]
        half = torch.linalg.solve_triangular(factor, right, upper=False)
        against, towards = torch.linalg.solve_triangular(factor.mT, half, upper=True).unbind(3)
        length = torch.linalg.vector_norm(half[..., 1], dim=2, keepdim=True)  # of the vector `towards`, [G, K, 1]
        changes: Tensor = against + towards * self.epsilon / (self.epsilon * length).clamp(min=1.0)
        return changes
