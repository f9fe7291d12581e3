"""GradNorm: loss weights that let every task learn at the same rate."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recmtl.balance.ema import start_corrected
from recmtl.balance.shared import Sizes
from recmtl.balance.weighting.base import LossWeightBalancer

_BETAS = (0.9, 0.999)  # of the weights' own Adam, as is its ε
_EPSILON = 1e-8


class GradNormRule(nn.Module):
    """The weights of GradNorm and how they move, apart from where the norms are measured.

    Shape:
        - losses, norms: `[K]`.

    Args:
        objectives: The number of losses, K.
        alpha: How strongly a task that has learned less is favoured, α.
        lr: The rate of the weights' own Adam.

    Example:
        >>> import torch
        >>> rule = GradNormRule(objectives=2, alpha=1.5, lr=0.025)
        >>> rule.step(torch.tensor([1.0, 1.0]), norms=torch.tensor([4.0, 1.0]))
        >>> bool(rule.weights[0] < rule.weights[1])  # the larger gradient is weighed down
        True
    """

    logits: Tensor
    mean: Tensor
    square: Tensor
    updates: Tensor
    initial: Tensor

    def __init__(self, objectives: int, alpha: float, lr: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.lr = lr
        for name in ("logits", "mean", "square", "initial"):
            self.register_buffer(name, torch.zeros(objectives))
        self.register_buffer("updates", torch.zeros(objectives, dtype=torch.int64))

    @property
    def weights(self) -> Tensor:
        """The weights `[K]`: positive, with sum K."""
        return len(self.logits) * self.logits.softmax(0)

    @torch.no_grad()
    def step(self, losses: Tensor, norms: Tensor) -> None:
        """Moves the weights of the tasks whose loss and norm are positive and finite; all other state stays."""
        seen = losses.isfinite() & (losses > 0)
        present = seen & norms.isfinite() & (norms > 0)
        self.initial.copy_(torch.where(seen & (self.initial == 0), losses, self.initial))
        count = present.sum().clamp(min=1)
        norms = torch.where(present, norms, 0.0)
        weights = self.weights

        learned = torch.where(present, losses / self.initial, 0.0)  # L̃
        rate = torch.where(present, learned * count / learned.sum(), 0.0)  # r
        sizes = weights * norms  # G
        targets = sizes.sum() / count * rate**self.alpha  # T, held constant
        pull = torch.where(present, (sizes - targets).sign(), 0.0) * norms  # s·n
        slope = weights * (pull - (weights * pull).mean())  # ∂ Σ|G − T| / ∂ω
        self._adam(slope, present)

    def _adam(self, slope: Tensor, present: Tensor) -> None:
        self.updates += present
        for average, value, beta in ((self.mean, slope, _BETAS[0]), (self.square, slope.square(), _BETAS[1])):
            average.copy_(torch.where(present, beta * average + (1 - beta) * value, average))
        mean = start_corrected(self.mean, _BETAS[0], self.updates)
        square = start_corrected(self.square, _BETAS[1], self.updates)
        self.logits -= torch.where(present, self.lr * mean / (square.sqrt() + _EPSILON), 0.0)


class GradNorm(LossWeightBalancer):
    r"""Weighs the losses so that their gradients on the last shared weight W are of matched size.

    Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018,
    arXiv:1711.02257, equations 1 and 2. With n_k = ‖∇_W L_k‖ the size of a task's gradient on W, and r_k how little the
    task has learned compared with the others, the weights descend

    $$
    \sum_{k=1}^{K} \left| w_k n_k - T_k \right|, \qquad T_k = r_k^{\alpha}\, \frac{1}{K} \sum_j w_j n_j, \qquad
    r_k = \frac{L_k / L_k(0)}{\frac{1}{K} \sum_j L_j / L_j(0)}
    $$

    with the targets T_k held constant. The model gets the gradient of Σ_k w_k·L_k, with the weights from before their
    own step.

    L_k(0) is the loss of the first batch in which the task is present. Losses must be positive to be compared
    with it: a task's weight rests while its loss is not.

    Note:
        The weights are w = K·softmax(ω), ω from 0, where the paper steps w and renormalises it: nothing there keeps
        w positive. The gradient for ω is in closed form, so there is no second backward pass.

        The weights move slowly at first: their Adam remembers the first, large slopes. With losses 2000× apart the
        sizes match after about 2,000 steps at the default rate, after about 500 at 0.1.

        In torch-rechub 0.9.0 the mean of all L_k/L_k(0) stands in place of r_k, so that α favours no task, and W is
        the first shared tensor, an embedding table.

    Shape:
        - losses: K scalars.
        - weights: `[K]`.

    Args:
        alpha: How strongly a task that has learned less is favoured, α; 0 matches the norms alone.
        lr: The rate at which the weights move, by an Adam of their own.

    Raises:
        ValueError: If `alpha` is negative or `lr` is not positive.

    Example:
        >>> import torch
        >>> W = torch.ones(2, 2, requires_grad=True)
        >>> balancer = GradNorm()
        >>> balancer.backward([W.square().sum(), 9 * W.square().sum()], shared=[W])
        >>> W.grad[0, 0]  # both weights were still 1
        tensor(20.)
        >>> bool(balancer.weights[0] > balancer.weights[1])
        True
    """

    def __init__(self, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__()
        check_rates(alpha, lr)
        self.alpha = alpha
        self.lr = lr
        self.rule: GradNormRule | None = None

    @property
    def weights(self) -> Tensor | None:
        """The weights `[K]` that the next step will use."""
        return None if self.rule is None else self.rule.weights

    def _build(self, sizes: Sizes) -> None:
        self.rule = GradNormRule(sizes.objectives, self.alpha, self.lr)

    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[Tensor], last: Sequence[Tensor]
    ) -> Tensor:
        assert self.rule is not None
        tensors = _measured_on(shared, last)
        gradients = [self._gradients(loss, tensors) for loss in losses]
        self.processes.add_up([gradient for task in gradients for gradient in task if gradient is not None])
        norms = torch.stack([_norm(task, values) for task in gradients])  # [K]
        by_tensor = zip(tensors, zip(*gradients, strict=True), strict=True)
        self._formed = {tensor: formed for tensor, formed in by_tensor if tensor.is_leaf and not _hooked(tensor)}
        weights = torch.where(norms.isfinite(), self.rule.weights, 0.0)
        self.rule.step(values, norms)
        self.skipped += values.isfinite() & ~norms.isfinite()
        return weights

    def _gradients(self, loss: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """The loss's gradient of each tensor; None where it does not reach it on any process."""
        several = self.processes.size > 1
        if not loss.requires_grad:
            return tuple(torch.zeros_like(tensor) if several else None for tensor in tensors)
        found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True, materialize_grads=several)
        # Autograd may give one tensor for two losses, and these are added up in place.
        return tuple(gradient.clone() if several else gradient for gradient in found)


def check_rates(alpha: float, lr: float) -> None:
    """Checks what `GradNormRule` is later made with.

    Raises:
        ValueError: If `alpha` is negative or `lr` is not positive.
    """
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"`alpha` must be at least 0, got {alpha}")
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"`lr` must be positive, got {lr}")


def _measured_on(shared: Sequence[Tensor], last: Sequence[Tensor]) -> list[Tensor]:
    """W: what `last` says, or the last shared tensor with two dimensions."""
    chosen = [tensor for tensor in last if tensor.requires_grad]
    if not last:
        chosen = [tensor for tensor in shared if tensor.dim() == 2 and tensor.requires_grad][-1:]
    if not chosen:
        raise ValueError(
            "GradNorm measures gradients on a shared weight, and there is none with two dimensions that requires a "
            "gradient: give one in `last`, or use another balancer for a model that shares nothing"
        )
    return chosen


def _norm(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """The norm of all of them together, 0 of none: `[]`."""
    reached = [torch.linalg.vector_norm(gradient, dtype=like.dtype) for gradient in gradients if gradient is not None]
    return torch.linalg.vector_norm(torch.stack(reached)) if reached else like.new_zeros(())


def _hooked(tensor: Tensor) -> bool:
    """Whether something of the user's is called when the tensor gets its gradient."""
    return bool(tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None))
