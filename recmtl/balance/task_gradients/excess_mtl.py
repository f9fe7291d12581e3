"""ExcessMTL: weights that grow with the excess risk of each task."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.balance.constructor_checks import check_rate
from recmtl.balance.shared import Sizes
from recmtl.balance.task_gradients.base import TaskGradientBalancer, TaskGradients
from recmtl.balance.weighting.base import present_softmax


class ExcessMTL(TaskGradientBalancer):
    r"""Weights that grow with the excess risk of each task: what it can still gain, not how large its loss is.

    He, Zhou, Zhao, Zhao and Li, "Robust Multi-Task Learning with Excess Risks", ICML 2024, arXiv:2402.02009,
    algorithm 1. With the squared gradients s_k of each task, summed over all its steps entry by entry,

    $$
    w_k \propto w_k \exp(\eta E_k), \qquad E_k = \frac{\hat{E}_k}{\hat{E}_k(0)}, \qquad
    \hat{E}_k = \sum_e \frac{G_{k,e}^2}{\sqrt{s_{k,e}}}
    $$

    The paper argues that a task whose labels are noise has a large loss that no step lowers, but no excess risk.

    Use it in place of methods that weight by the loss, such as `STCH`, if some labels are noisy. It costs a backward
    pass per task, and **the memory of K copies of the shared tensors** for s, twice that with a `GradScaler`.

    Note:
        The gradients of small batches do not vanish at noisy labels. On planted noise the noisy task got the larger
        weight, and the other was worse than under `Sum` (`python -m benchmarks.claims`).

        Risks are relative to that of a task's first step. A task whose first gradient is small, such as that of a head
        that starts at 0, divides by a small number, and within some hundreds of steps takes all the weight.

        Tensors with `part_of_row`, such as the embedding tables of a `FeatureEncoder`, keep no squared gradients: the
        risk is estimated on the other shared tensors, and these get the same weights. Where there are no others, as in
        `ESMM`, the norm of each part stands for its entries. A table of your own, such as a
        `torch.nn.Embedding`, is a tensor as any other, K copies of it included.

        The paper weights the losses; here, as for all methods on task gradients, towers keep the gradients of the plain
        sum. Weights add up to K, not to 1. An entry whose gradient was
        always 0 is left out in place of an ε in the root, so that the losses' scales have no effect at all.

    Shape:
        - losses: K scalars.
        - weights: `[K]`, at least 0, with sum K.

    Args:
        lr: How fast weights grow, η.

    Raises:
        ValueError: If `lr` is not positive.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> balancer = ExcessMTL(lr=0.1)
        >>> for slope in (1.0, 0.5):  # the gradient of the second task halves
        ...     balancer.backward([x[0], slope * x[1]], shared=[x])
        >>> bool(balancer.weights[0] > balancer.weights[1])
        True
    """

    depends_on: ClassVar[tuple[str, ...]] = ("objectives", "parts", "elements")
    squares: Tensor
    logits: Tensor
    initial: Tensor
    search_space: ClassVar[Mapping[str, Any]] = {"lr": {"low": 0.001, "high": 1.0, "log": True}}

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__()
        check_rate(lr)
        self.lr = lr
        for name in ("squares", "logits", "initial"):
            self.register_buffer(name, None)

    @property
    def weights(self) -> Tensor | None:
        """The weights `[K]` after the last step."""
        return None if self._sizes is None else len(self.logits) * self.logits.softmax(0)

    def _build(self, sizes: Sizes) -> None:
        self.squares = torch.zeros(sizes.objectives, sizes.elements or sizes.parts)
        self.logits = torch.zeros(sizes.objectives)
        self.initial = torch.zeros(sizes.objectives)  # the risk at the task's first step

    def _weigh(self, measured: TaskGradients) -> Tensor:
        present = (measured.norms > 0).any(1)  # [K]
        risk = torch.zeros_like(self.initial)
        if not any(shared.elements for shared in measured.shared):
            risk += _added_risk(measured.norms, self.squares)
        for _, span, gradients in measured.by_element():
            risk += _added_risk(gradients, self.squares[:, span])
        first = present & (self.initial == 0)
        self.initial.copy_(torch.where(first, risk, self.initial))
        moved = present & ~first & (self.initial > 0)
        self.logits += masked(self.lr * risk / self.initial, moved)
        weights = present.sum() * present_softmax(self.logits, present)
        return masked(weights, present).unsqueeze(1)  # [K, 1]


def _added_risk(gradients: Tensor, sums: Tensor) -> Tensor:
    """Add squared gradients `[K, n]` to their sums, and return the excess risk `[K]` in these entries."""
    squared = gradients.square()
    sums += squared
    return masked(squared / sums.sqrt(), sums > 0).sum(1)
