"""CAGrad: the step near the mean gradient that does most for the worst task."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.balance.cone_solver import largest_least_gain
from recmtl.balance.task_gradients.gram import GramBalancer, cosines


class CAGrad(GramBalancer):
    r"""Conflict-averse gradient descent: of all steps near the mean gradient, that with the largest least gain.

    Liu, Liu, Jin, Stone and Liu, "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021,
    arXiv:2110.14048, equation 1 and algorithm 1. With g_0 the mean of the G_k,

    $$
    \max_{d} \min_{k} \langle G_k, d \rangle
    \quad \text{subject to} \quad \lVert d - g_0 \rVert \le c\, \lVert g_0 \rVert
    $$

    whose solution is d = g_0 + c‖g_0‖·G_w/‖G_w‖, where G_w is the convex combination of the G_k that minimizes
    ⟨G_w, g_0⟩ + c‖g_0‖·‖G_w‖. With c = 0 it is the mean; the nearer c is to 1, the more it is `MGDA`. Private
    gradients are those of the plain sum.

    Use it if training should still lower the mean loss, as the plain sum does, but a task is left behind.

    Note:
        The program is solved for d, exactly: the authors' code minimizes over w with SciPy to its default tolerance.
        The products of different tasks are multiplied by 1 − 1e-8, so that there is a solution if tasks are equal or
        opposed. The authors' code divides by 1 + c² where the paper does not; that is `rescale="square"`. Alone a task
        is multiplied by 1 + c, as the paper's equation says.

    Shape:
        - losses: K scalars, up to 32.
        - weights: `[K]`.

    Args:
        c: The radius of the ball around the mean gradient, in parts of its norm, from 0 to below 1.
        rescale: Whether the step is divided by 1 + c (`linear`), by 1 + c² (`square`), or not (`none`).

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> CAGrad(c=0.5).backward([6 * x[0], 16 * x[1]], shared=[x])
        >>> x.grad  # the mean (3, 8), and half of its norm towards the first task
        tensor([7.2720, 8.0000])
    """

    search_space: ClassVar[Mapping[str, Any]] = {"c": {"low": 0.05, "high": 0.95}}

    def __init__(self, c: float = 0.4, rescale: Literal["none", "linear", "square"] = "none") -> None:
        super().__init__()
        if not 0 <= c < 1:
            raise ValueError(f"`c` must be in [0, 1), got {c}")
        if rescale not in ("none", "linear", "square"):
            raise ValueError(f"`rescale` must be 'none', 'linear' or 'square', got {rescale!r}")
        self.c = c
        self.rescale = rescale

    def _combine(self, gram: Tensor, present: Tensor) -> Tensor:
        shares = self._shares(present)
        if self.c == 0:
            return shares
        cosine, norms = cosines(gram, present)
        cosine = torch.lerp(cosine, torch.eye(len(norms), dtype=norms.dtype, device=norms.device), 1e-8)
        sizes = masked(norms, present)
        mean = shares * sizes
        gains = (cosine * mean).sum(1)  # ⟨G_k, g_0⟩/n_k
        radius = self.c * (mean * gains).sum().clamp(min=0.0).sqrt()
        radius = radius.maximum(1e-12 * sizes.amax())  # should the mean be 0
        least = torch.where(present, norms, norms.amax()).amin()
        gains = gains / radius
        # An absent task gains more than any other in each step, so that it never is the worst.
        gains, scales = torch.where(present, gains, gains.amax() + 3), masked(least / norms, present, 1.0)
        weights = shares + radius * largest_least_gain(cosine, gains, scales) / norms
        return weights / {"none": 1.0, "linear": 1 + self.c, "square": 1 + self.c**2}[self.rescale]
