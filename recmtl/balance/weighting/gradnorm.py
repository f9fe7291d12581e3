"""GradNorm: loss weights that let all tasks learn at similar rates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recmtl.balance.backward import as_real, has_hooks, masked
from recmtl.balance.constructor_checks import check_rate
from recmtl.balance.distributed import ProcessGroup, exchanges, gradients_to_sum
from recmtl.balance.gradient_stats import gradients_of
from recmtl.balance.shared import SharedTensor, Sizes
from recmtl.balance.task_adam import TaskAdam
from recmtl.balance.weighting.base import LossWeightBalancer


class GradNormRule(nn.Module):
    """The weights of GradNorm and their update, independent of where the norms are measured.

    Shape:
        - losses, norms: `[K]`.

    Args:
        objectives: The number of losses, K.
        alpha: How strongly tasks that have learned less are favoured, α.
        lr: The learning rate of the weights' own Adam.

    Example:
        >>> import torch
        >>> rule = GradNormRule(objectives=2, alpha=1.5, lr=0.025)
        >>> rule.step(torch.tensor([1.0, 1.0]), norms=torch.tensor([4.0, 1.0]))
        >>> bool(rule.weights[0] < rule.weights[1])  # the task with the larger gradient gets the smaller weight
        True
    """

    initial: Tensor

    def __init__(self, objectives: int, alpha: float, lr: float) -> None:
        super().__init__()
        self.alpha = alpha
        self.adam = TaskAdam(objectives, lr)
        self.register_buffer("initial", torch.zeros(objectives))

    @property
    def weights(self) -> Tensor:
        """The weights `[K]`, positive and with sum K."""
        return len(self.adam.values) * self.adam.values.softmax(0)

    @torch.no_grad()
    def step(self, losses: Tensor, norms: Tensor) -> None:
        """Update the weights of the tasks whose loss and norm are positive and finite; all other state stays."""
        seen = losses.isfinite() & (losses > 0)
        present = seen & norms.isfinite() & (norms > 0)
        self.initial.copy_(torch.where(seen & (self.initial == 0), losses, self.initial))
        count = present.sum().clamp(min=1)
        norms = masked(norms, present)
        weights = self.weights

        progress = masked(losses / self.initial, present)  # L̃
        rate = masked(progress * count / progress.sum(), present)  # r
        sizes = weights * norms  # G
        targets = sizes.sum() / count * rate**self.alpha  # T, held constant
        signed = masked((sizes - targets).sign(), present) * norms  # s·n
        slope = weights * (signed - (weights * signed).mean())  # ∂ Σ|G − T| / ∂ω
        self.adam.step(slope, present)


class GradNorm(LossWeightBalancer):
    r"""Loss weights that let all tasks learn at similar rates, from the norms of their gradients on one layer.

    Chen, Badrinarayanan, Lee and Rabinovich, "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep
    Multitask Networks", ICML 2018, arXiv:1711.02257, equations 1 and 2. On the last shared weight W let
    n_k = ‖∇_W L_k‖. The weights w_k descend

    $$
    \sum_{k=1}^{K} \left| w_k n_k - T_k \right|, \qquad
    T_k = r_k^{\alpha}\, \frac{1}{K} \sum_{j=1}^{K} w_j n_j, \qquad
    r_k = \frac{L_k / L_k(0)}{\frac{1}{K} \sum_{j=1}^{K} L_j / L_j(0)}
    $$

    with the targets T_k held constant. A task that has learned less than the others has r_k above 1 and gets a larger
    target. The model receives the gradient of Σ_k w_k·L_k, with the weights before their update.

    L_k(0) is the loss of the first batch in which the task is present. Losses must be positive to be compared with it;
    the weight of a task stays while its loss is not.

    Use it if losses differ in scale by a known reason and train at different speeds. It costs a partial backward pass
    per task, down to W.

    Note:
        The weights are w = K·softmax(ω) with ω starting at 0, while the paper updates w and renormalises it, which does
        not keep w positive. The gradient of ω is in closed form, without a second backward pass.

        The weights move slowly at first, as their Adam remembers the first large gradients. With losses 2000× apart
        the sizes match after about 2,000 steps at the default rate, and after about 500 at 0.1.

        torch-rechub 0.9.0 uses the mean of all L_k/L_k(0) in place of r_k, so that α favours no task, and the first
        shared tensor, an embedding table, as W.

    Shape:
        - losses: K scalars.
        - weights: `[K]`, positive, with sum K.

    Args:
        alpha: How strongly tasks that have learned less are favoured, α; 0 matches the norms alone.
        lr: The learning rate of the weights' own Adam.

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

    search_space: ClassVar[Mapping[str, Any]] = {
        "alpha": {"low": 0.1, "high": 3.0},
        "lr": {"low": 0.0025, "high": 0.25, "log": True},
    }

    def __init__(self, alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__()
        check_gradnorm_options(alpha, lr)
        self.alpha = alpha
        self.lr = lr
        self.rule: GradNormRule | None = None

    @property
    def weights(self) -> Tensor | None:
        """The weights `[K]` of the next step."""
        return None if self.rule is None else self.rule.weights

    def _build(self, sizes: Sizes) -> None:
        self.rule = GradNormRule(sizes.objectives, self.alpha, self.lr)

    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[SharedTensor], last: Sequence[Tensor]
    ) -> Tensor:
        assert self.rule is not None
        measured = _measured_tensors(shared, last)
        tensors, through = [one.tensor for one in measured], exchanges(measured)
        several = self.processes.size > 1
        gradients = [gradients_of(loss, tensors, summed=several, through=through) for loss in losses]
        self.processes.all_reduce(gradients_to_sum(gradients, measured))
        norms = _total_norms(gradients, measured, values, self.processes)  # [K]
        scale = self._scale_on(norms.device)
        norms = norms if scale is None else norms / scale
        by_tensor = zip(tensors, zip(*gradients, strict=True), strict=True)
        self._known_gradients = {
            tensor: found for tensor, found in by_tensor if tensor.is_leaf and not _has_hooks(tensor)
        }
        weights = masked(self.rule.weights, self._finite(norms))
        self.rule.step(values, norms)
        self.skipped += values.isfinite() & ~norms.isfinite()
        self._put_back_state(~norms.isfinite().all())
        return weights


def check_gradnorm_options(alpha: float, lr: float) -> None:
    """Check the options of `GradNormRule`."""
    if not (math.isfinite(alpha) and alpha >= 0):
        raise ValueError(f"`alpha` must be at least 0, got {alpha}")
    check_rate(lr)


def _measured_tensors(shared: Sequence[SharedTensor], last: Sequence[Tensor]) -> list[SharedTensor]:
    """Return W: the tensors in `last`, or the last shared tensor with two dimensions."""
    known = {one.tensor: one for one in shared}
    tensors = [known.get(tensor, SharedTensor(tensor)) for tensor in last if tensor.requires_grad]
    if not last:
        tensors = [one for one in shared if one.tensor.dim() == 2 and one.tensor.requires_grad][-1:]
    if not tensors:
        raise ValueError(
            "GradNorm measures gradients on a shared weight, got no tensor with two dimensions that requires a "
            "gradient: pass one in `last`, or use another balancer for a model that shares nothing"
        )
    return tensors


def _total_norms(
    gradients: Sequence[Sequence[Tensor | None]],
    measured: Sequence[SharedTensor],
    like: Tensor,
    processes: ProcessGroup,
) -> Tensor:
    """Return the norm of each task's gradients together, `[K]`; those of exchanged rows lie in all processes."""
    here = [[g for g, one in zip(task, measured, strict=True) if one.exchanged is None] for task in gradients]
    norms = torch.stack([_total_norm(task, like) for task in here])
    if not exchanges(measured):
        return norms
    rows = [[g for g, one in zip(task, measured, strict=True) if one.exchanged is not None] for task in gradients]
    of_rows = processes.norm(torch.stack([_total_norm(task, like) for task in rows]))
    return torch.hypot(norms, of_rows)


def _total_norm(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """Return the norm of all gradients together, `[]`; 0 without any."""
    reached = [torch.linalg.vector_norm(as_real(g), dtype=like.dtype) for g in gradients if g is not None]
    return torch.linalg.vector_norm(torch.stack(reached)) if reached else like.new_zeros(())


def _has_hooks(tensor: Tensor) -> bool:
    """Return whether a user's hook is called when the tensor receives its gradient."""
    return bool(tensor._backward_hooks) or has_hooks(tensor)
