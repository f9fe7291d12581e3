"""GradVac: conflicting gradients turned until their cosines reach those that the tasks had before."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from recmtl.balance.backward import is_finite, masked
from recmtl.balance.counter_generator import RandomOrders
from recmtl.balance.shared import Sizes
from recmtl.balance.task_gradients.projection import ProjectionBalancer


class GradVac(ProjectionBalancer):
    r"""Gradient vaccine: each task's gradient is turned towards those to which it is less similar than usual.

    Wang, Tsvetkov, Firat and Cao, "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively
    Multilingual Models", ICLR 2021, arXiv:2010.05874, algorithm 1 and equations 3 and 4. For each task k, g_k starts as
    G_k and meets the other tasks j ≠ k in random order, always with their original gradient G_j. Let φ be the cosine of
    g_k and G_j, and φ̂ its moving average over the steps. If φ < φ̂,

    $$
    g_k \leftarrow g_k + \frac{\lVert g_k \rVert \left( \hat\varphi \sqrt{1 - \varphi^2}
    - \varphi \sqrt{1 - \hat\varphi^2} \right)}{\lVert G_j \rVert \sqrt{1 - \hat\varphi^2}}\, G_j
    $$

    which has the cosine φ̂ with G_j. Then φ̂ becomes (1 − β)·φ̂ + β·φ; it starts at 0. The shared tensors receive the
    sum or the mean of the g_k. A task without a gradient takes no part, and its averages stay. Private gradients are
    those of the plain sum.

    Use it in place of `PCGrad` if the tasks are related, so that their gradients should agree and not only not
    conflict. With β = 0 it is `PCGrad`.

    Note:
        A task that wants the opposite of several others is turned towards them. On such a planted problem it was worse
        than under `Sum`, and better under `PCGrad` (`python -m benchmarks.claims`).

        The paper adds up the g_k; the default is their mean, as in `PCGrad`. It computes φ̂ for all layers together, or
        for each layer: `scope`. The averages are those of pairs in both directions, since the order decides with which
        g_k the cosine is taken.

        TorchJD 0.18.0 and LibMTL 1.1.5 use β = 0.5. LibMTL moves φ̂ only where φ < φ̂, so that it starts at 0 and can
        only fall: there the method never asks for more than PCGrad.

    Shape:
        - losses: K scalars.
        - weights: `[K]`.
        - targets: `[1, K, K]`, or `[P, K, K]` with the scope `part`.

    Attributes:
        orders: `orders(K)` returns the orders of the next step, a permutation of all tasks per row.
        targets: The moving averages φ̂ of the cosines of g_k and G_j; None before the state is created.

    Args:
        beta: The rate of the averages, β.
        reduction: `mean` or `sum` of the turned gradients.
        scope: Whether gradients are compared as a `whole`, over all shared parts, or `part` by part.
        seed: The seed of the random orders, below 2³².

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> balancer = GradVac(beta=0.5, reduction="sum")
        >>> balancer.backward([x[0], x[1] - x[0]], shared=[x])  # as PCGrad, whose targets are all 0
        >>> x.grad
        tensor([0.5000, 1.5000])
        >>> balancer.targets[0, 0, 1]  # half of the cosine −1/√2
        tensor(-0.3536)
    """

    depends_on: ClassVar[tuple[str, ...]] = ("objectives", "parts")
    targets: Tensor
    search_space: ClassVar[Mapping[str, Any]] = {
        "beta": {"low": 0.001, "high": 0.5, "log": True},
        "reduction": ["mean", "sum"],
    }

    def __init__(
        self,
        beta: float = 0.01,
        reduction: Literal["mean", "sum"] = "mean",
        scope: Literal["whole", "part"] = "whole",
        seed: int = 0,
    ) -> None:
        super().__init__(reduction, scope)
        if not 0 <= beta <= 1:
            raise ValueError(f"`beta` must be in [0, 1], got {beta}")
        self.beta = beta
        self.orders = RandomOrders(seed)
        self.register_buffer("targets", None)

    def _build(self, sizes: Sizes) -> None:
        super()._build(sizes)
        groups = sizes.parts if self.scope == "part" else 1
        self.targets = torch.zeros(groups, sizes.objectives, sizes.objectives)

    def _coefficients(self, gram: Tensor, present: Tensor) -> Tensor:
        tasks, dtype = len(present), gram.dtype
        gram, targets = gram.double(), self.targets.double()  # [G, K, K]
        unit = torch.eye(tasks, dtype=gram.dtype, device=gram.device)
        own = torch.arange(tasks, device=gram.device)
        norms = gram.diagonal(dim1=1, dim2=2).sqrt()  # [G, K]
        coefficients = unit.expand_as(gram)
        for met in self.orders(tasks).unbind(1):  # [K]
            products = coefficients @ gram  # ⟨g_k, G_i⟩, [G, K, K]
            inner = _entries(products, met)
            size = (coefficients * products).sum(2).clamp(min=0.0).sqrt()  # ‖g_k‖, [G, K]
            other = norms.index_select(1, met)
            cosine = inner / (size * other)
            usable = (met != own) & is_finite(cosine)
            cosine = masked(cosine.clamp(-1.0, 1.0), usable)
            target = _entries(targets, met)
            room = (1 - target.square()).sqrt()  # 0 if they were always parallel: then nothing can be reached
            step = size * (target * (1 - cosine.square()).sqrt() - cosine * room) / (other * room)
            step = masked(step, usable & (cosine < target) & is_finite(step))
            coefficients = coefficients + step.unsqueeze(2) * unit.index_select(0, met)
            moved = torch.where(usable, (1 - self.beta) * target + self.beta * cosine, target)
            places = met.expand_as(moved).unsqueeze(2)
            targets = targets.scatter(2, places, moved.unsqueeze(2))
        self.targets.copy_(targets)
        self.orders.advance(present.any())
        return coefficients.to(dtype)


def _entries(matrices: Tensor, columns: Tensor) -> Tensor:
    """Return the entry of each row at its column, `[G, K]`, of `[G, K, K]` and `[K]`."""
    return matrices.gather(2, columns.expand(len(matrices), -1).unsqueeze(2)).squeeze(2)
