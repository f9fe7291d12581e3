"""GradDrop: at each feature of the views, one sign of the tasks' gradients is kept."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import masked, zeros_if_none
from recmtl.balance.constructor_checks import check_length, task_numbers
from recmtl.balance.counter_generator import CounterGenerator
from recmtl.balance.representation.base import RepresentationBalancer
from recmtl.balance.shared import Sizes


class GradDrop(RepresentationBalancer):
    r"""Gradient sign dropout: at each feature the tasks' gradients of one sign are kept, the others dropped.

    Chen, Ngiam, Huang, Luong, Kretzschmar, Chai and Anguelov, "Just Pick a Sign: Optimizing Deep Multitask Models with
    Gradient Sign Dropout", NeurIPS 2020, arXiv:2010.06808, equation 1 and algorithm 1. With ĝ_k the gradient at the
    view z_k of head k, summed over the batch after each entry is multiplied by the sign of the view's,

    $$
    s_k = \sum_{b} \operatorname{sgn}(z_k) \circ \hat{g}_k, \qquad
    P = \frac{1}{2} \left( 1 + \frac{\sum_k s_k}{\sum_k |s_k|} \right)
    $$

    P is near 1 where the tasks agree on a positive gradient, and near 0 on a negative one. Each feature draws a uniform
    U between 0 and 1. If P > U it keeps the tasks with s_k > 0, else those with s_k < 0. The view of a task that is
    dropped receives ℓ_k·ĝ_k. The forward pass is the identity; the towers' gradients are those of the plain sum.

    Use it if gradients conflict feature by feature and many steps can average what is drawn. It costs next to nothing.

    Note:
        The paper's function of P is the identity here. The authors' code (lingvo) also keeps tasks with s_k = 0, and
        by default scales the result to the norm of the plain sum, of which the paper says nothing. LibMTL and TorchJD
        compare the entries of gradients of parameters, or of the representation row by row, instead of features.

        The numbers come from a counter, not from a global generator: seed and counter are state, every device and every
        process draws the same, and a step without gradients draws nothing.

    Shape:
        - views: H tensors `[B, ...]` of one shape.
        - weights: `[H]`.

    Args:
        leak: What a dropped task keeps of its gradient, ℓ between 0 and 1: one number, or one per head. A task with 1
            is never dropped.
        seed: The seed of the random numbers, below 2³².

    Raises:
        ValueError: If an argument is out of range, or `leak` has another length than the heads.

    Example:
        >>> import torch
        >>> z = torch.ones(1, 2, requires_grad=True)
        >>> a, b = GradDrop().fork([z, z])
        >>> (a[0, 0] + 2 * b[0, 0] + 3 * b[0, 1]).backward()  # both tasks agree
        >>> z.grad
        tensor([[3., 3.]])
    """

    leaks: Tensor
    kept: Tensor
    search_space: ClassVar[Mapping[str, Any]] = {"leak": {"low": 0.0, "high": 1.0}}

    def __init__(self, leak: float | Sequence[float] = 0.0, seed: int = 0) -> None:
        super().__init__()
        single = isinstance(leak, int | float)
        leaks = task_numbers("leak", [leak] if single else leak)
        if not all(0 <= each <= 1 for each in leaks):
            raise ValueError(f"`leak` must be in [0, 1], got {leak}")
        self.leak = leaks[0] if single else leaks
        self.random = CounterGenerator(seed)
        self.register_buffer("leaks", None, persistent=False)
        self.register_buffer("kept", None)

    @property
    def weights(self) -> Tensor | None:
        """The share of the features that each task kept in the last step that had it, `[H]`; 1 before."""
        return None if self._sizes is None else self.kept.clone()

    def _build(self, sizes: Sizes) -> None:
        leaks = [self.leak] * sizes.heads if isinstance(self.leak, float) else self.leak
        check_length("leak", leaks, sizes.heads)
        self.leaks = torch.tensor(leaks)
        self.kept = torch.ones(sizes.heads)

    def _check_views(self, views: Sequence[Tensor]) -> None:
        super()._check_views(views)
        if any(view.shape != views[0].shape for view in views):
            raise ValueError(f"views must share one shape, got {[tuple(view.shape) for view in views]}")

    def _saved_views(self, views: Sequence[Tensor]) -> Sequence[Tensor]:
        return views

    def _backward_views(
        self, gradients: Sequence[Tensor | None], saved: Sequence[Tensor]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        pairs = zip(zeros_if_none(gradients), saved, strict=True)
        sums = torch.stack([(g.to(self.kept.dtype) * view.sign()).sum(0).flatten() for g, view in pairs])  # s, [H, n]
        no = torch.zeros((), dtype=torch.bool, device=sums.device)
        broken = torch.stack([no if g is None else ~g.isfinite().all() for g in gradients])  # [H]
        reached = torch.stack([no if g is None else (g != 0).any() for g in gradients])
        sums, broken, reached = self.processes.sum(sums, broken, reached)
        finite = broken == 0
        self.skipped += ~finite
        keep = self._keep(masked(sums, finite[:, None]))  # [H, n]
        present = finite & (reached > 0)
        self.kept.copy_(torch.where(present, keep.to(self.kept.dtype).mean(1), self.kept))
        self.random.advance(present.any())
        factors = masked(torch.maximum(keep.to(sums.dtype), self.leaks.to(sums.dtype)[:, None]), finite[:, None])
        return [None if g is None else _scaled(g, f) for g, f in zip(gradients, factors, strict=True)], []

    def _keep(self, sums: Tensor) -> Tensor:
        """Return which tasks keep their gradient at each feature, bool `[H, n]`, from the sums s `[H, n]`."""
        size = sums.abs().sum(0)
        purity = masked((1 + sums.sum(0) / size) / 2, size > 0)  # P, [n]
        return torch.where(purity > self.random.uniform(len(size)), sums > 0, sums < 0)


def _scaled(gradient: Tensor, factors: Tensor) -> Tensor:
    """Return the gradient `[B, ...]` times a factor per feature `[n]`; 0 where the factor is 0."""
    factors = factors.to(gradient.dtype).view(gradient.shape[1:])
    return masked(gradient * factors, factors != 0)
