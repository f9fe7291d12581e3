"""DB-MTL: averaged gradients of the losses' logarithms, all as long as the longest."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import is_finite, masked
from recmtl.balance.shared import Sizes
from recmtl.balance.task_gradients.base import TaskGradientBalancer, TaskGradients


class DBMTL(TaskGradientBalancer):
    r"""Dual balancing: gradients of log L_k, averaged over the steps, and brought to the size of the largest.

    Lin, Jiang, Ye, Zhang, Chen, Chen, Liu, Tsang and Kwok, "Dual-Balancing for Multi-Task Learning", 2023,
    arXiv:2308.12029, algorithm 1. With the moving average of each task's gradient,

    $$
    a_k \leftarrow \beta_t\, a_k + (1 - \beta_t)\, \nabla \log L_k, \qquad \beta_t = \frac{\beta}{t^{\sigma}}, \qquad
    g = \max_j \lVert a_j \rVert \sum_{k=1}^{K} \frac{a_k}{\lVert a_k \rVert}
    $$

    so that neither the scale of a loss nor the size of its gradient has an effect. Private gradients are those of the
    plain sum.

    Use it if losses of different scales shall count alike, and single batches are too noisy to tell the tasks' sizes.
    It costs a backward pass per task, and **the memory of K copies of the shared tensors** for the averages, twice that
    with a `GradScaler`; with `beta=0` there is no average, and no such memory.

    A loss that is not positive has no logarithm: on the shared tensors it is left out of the step, and counted in
    `skipped` if it is below 0.

    Note:
        Tensors with `part_of_row`, such as the embedding tables of a `FeatureEncoder`, keep no averages, as the next
        batch may look up other rows: they receive the gradients of this step with the same factors, and their part of
        each size is that of this step. So it is whether a step gathers their rows or not. A table of your own, such as
        a `torch.nn.Embedding`, is a tensor as any other, K copies of it included.

        The paper takes the logarithm for towers, too; here, as for all methods on task gradients, they keep the
        gradients of the plain sum. Averages are divided by the sum of the weights in them, 1 − βᵗ for σ = 0: in the
        paper the first steps are shorter, and a task that is first present late starts with a direction that is not
        its own. LibMTL 1.1.5 adds 1e-8 to losses and norms.

    Shape:
        - losses: K scalars, positive.
        - weights: `[K]`.

    Args:
        beta: The rate of the averages, β.
        decay: How fast the rate falls with the number of steps t that have had the task, σ; 0 keeps it.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> DBMTL().backward([x[0], 5 * x[1].square()], shared=[x])
        >>> x.grad  # 1/x and 2/x
        tensor([2., 2.])
    """

    depends_on: ClassVar[tuple[str, ...]] = ("objectives", "elements")
    averages: Tensor
    masses: Tensor
    updates: Tensor
    factors: Tensor
    search_space: ClassVar[Mapping[str, Any]] = {"beta": [0.0, 0.5, 0.9, 0.99]}

    def __init__(self, beta: float = 0.9, decay: float = 0.0) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise ValueError(f"`beta` must be in [0, 1), got {beta}")
        if not 0 <= decay <= 1:
            raise ValueError(f"`decay` must be in [0, 1], got {decay}")
        self.beta = beta
        self.decay = decay
        for name in ("averages", "masses", "updates", "factors"):
            self.register_buffer(name, None)

    @property
    def weights(self) -> Tensor | None:
        """The factor of ∇L_k in the last step that had the task, `[K]`, whether averaged or not; 1 before."""
        return None if self._sizes is None else self.factors.clone()

    def _build(self, sizes: Sizes) -> None:
        self.averages = torch.zeros(sizes.objectives, sizes.elements if self.beta else 0)
        self.masses = torch.zeros(sizes.objectives)  # the sum of the weights in each average
        self.updates = torch.zeros(sizes.objectives, dtype=torch.int64)
        self.factors = torch.ones(sizes.objectives)

    def _weigh(self, measured: TaskGradients) -> Tensor:
        assert self.losses is not None
        losses = self.losses
        self.skipped += (losses < 0) & is_finite(losses)
        inverse = 1 / losses  # [K]
        present = (measured.norms > 0).any(1) & (losses > 0) & is_finite(losses) & is_finite(inverse)  # [K]
        inverse = masked(inverse, present)
        current = ~measured.by_element_parts if self.beta else torch.ones_like(measured.norms[0], dtype=torch.bool)
        self._average(measured, inverse, present)
        corrected = masked(1 / self.masses, present)  # [K]
        sizes = torch.linalg.vector_norm(self.averages, dim=1) * corrected
        others = masked(measured.norms, current) * inverse.unsqueeze(1)  # [K, P]
        sizes = torch.linalg.vector_norm(torch.cat([others, sizes.unsqueeze(1)], 1), dim=1)  # ‖a_k‖, [K]
        counted = present & (sizes > 0)
        scales = masked(masked(sizes, counted).amax() / sizes, counted)
        if self.beta:
            measured.add_by_element(((scales * corrected).unsqueeze(0) @ self.averages).squeeze(0))
        self.factors.copy_(torch.where(present, scales * inverse, self.factors))
        return masked((scales * inverse).unsqueeze(1), current)  # [K, P]

    def _average(self, measured: TaskGradients, inverse: Tensor, present: Tensor) -> None:
        """Update the averages of present tasks."""
        self.updates += present
        rates = 1 - self.beta * self.updates.clamp(min=1).to(self.masses.dtype) ** -self.decay
        rates = masked(rates, present)  # [K]
        self.masses.lerp_(torch.ones_like(rates), rates)
        if self.beta:
            for _, span, gradients in measured.by_element():
                self.averages[:, span].lerp_((gradients * inverse.unsqueeze(1)).to(rates.dtype), rates.unsqueeze(1))
