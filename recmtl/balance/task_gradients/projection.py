"""Gradient surgery: each task's gradient loses what points against another task's."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from recmtl.balance.shared import Sizes
from recmtl.balance.task_gradients.base import TaskGradientBalancer, TaskGradients


class ProjectionBalancer(TaskGradientBalancer, ABC):
    """Combines projected gradients g_k = Σ_i C_ki·G_i, of which only the coefficients C are ever formed.

    The inner products ⟨G_i, G_j⟩ of the tasks' gradients decide every projection, so that C comes from their Gram
    matrix alone and the shared tensors are visited once. A method writes `_coefficients`.

    Args:
        reduction: `sum` adds the projected gradients up; `mean` divides the sum, part by part, by the number of tasks
            that reach the part.
        scope: Whether gradients conflict as a `whole`, over all shared parts, or `part` by part.

    Raises:
        ValueError: If an argument is none of its choices.

    Example:
        >>> import torch
        >>> class Never(ProjectionBalancer):
        ...     def _coefficients(self, gram, present):
        ...         return torch.eye(len(present)).expand_as(gram)
        >>> x = torch.zeros(2, requires_grad=True)
        >>> Never(reduction="sum").backward([x[0] - x[1], x[1]], shared=[x])
        >>> x.grad
        tensor([1., 0.])
    """

    depends_on: ClassVar[tuple[str, ...]] = ("objectives",)
    factors: Tensor

    def __init__(self, reduction: Literal["mean", "sum"] = "mean", scope: Literal["whole", "part"] = "whole") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"`reduction` must be 'mean' or 'sum', got {reduction!r}")
        if scope not in ("whole", "part"):
            raise ValueError(f"`scope` must be 'whole' or 'part', got {scope!r}")
        self.reduction = reduction
        self.scope = scope
        self.register_buffer("factors", None)

    @property
    def weights(self) -> Tensor | None:
        """What each G_k was multiplied by in the step that last had it, `[K]`: the mean over its parts; 1 before."""
        return None if self._sizes is None else self.factors.clone()

    def _build(self, sizes: Sizes) -> None:
        self.factors = torch.ones(sizes.objectives)

    def _weigh(self, measured: TaskGradients) -> Tensor:
        reached = measured.norms > 0  # [K, P]
        gram = measured.gram()  # [P, K, K]
        if self.scope == "whole":
            gram = gram.sum(0, keepdim=True)  # [P, K, K] -> [1, K, K]
        weights = self._coefficients(gram, reached.any(1)).sum(1).T  # [P or 1, K, K] -> [K, P or 1]
        if self.reduction == "mean":
            weights = weights / reached.sum(0).clamp(min=1)  # [K, P]
        mean = (weights * reached).sum(1) / reached.sum(1)  # [K]
        self.factors.copy_(torch.where(reached.any(1), mean, self.factors))
        return weights

    @abstractmethod
    def _coefficients(self, gram: Tensor, present: Tensor) -> Tensor:
        """The coefficients C `[G, K, K]` of the tasks' gradients in each task's projected one.

        Args:
            gram: Their inner products, in one or more separate groups of parts, `[G, K, K]`.
            present: The tasks that have a gradient in any part, bool `[K]`.
        """


def project_conflicting(gradients: Tensor, order: Tensor | None = None) -> Tensor:
    """Takes from each task's gradient its projections onto the gradients that it conflicts with.

    With an order, task k meets the others one after the other: where ⟨g_k, G_j⟩ < 0, g_k loses its part along G_j,
    the other's original gradient (PCGrad, arXiv:2001.06782, algorithm 1). Without one, all that conflicts with the
    original G_k is taken at once (PPCGrad). Zero gradients take nothing.

    Args:
        gradients: One gradient per task.
        order: The tasks that each task meets, row by row a permutation of all; its own place is passed over.

    Returns:
        The projected gradients; add them up, or average them, for a shared gradient.

    Raises:
        ValueError: If a shape is another than said below.

    Shape:
        - gradients: `[K, N]`.
        - order: int64 `[K, K]`.
        - output: `[K, N]`.

    Example:
        >>> import torch
        >>> project_conflicting(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]))
        tensor([[0.5000, 0.5000],
                [0.0000, 1.0000]])
    """
    if gradients.dim() != 2:
        raise ValueError(f"`gradients` must have shape [K, N], got {tuple(gradients.shape)}")
    tasks = len(gradients)
    if order is not None and order.shape != (tasks, tasks):
        raise ValueError(f"`order` must have shape [{tasks}, {tasks}], got {tuple(order.shape)}")
    gram = gradients @ gradients.T  # [K, K]
    coefficients = coefficients_at_once(gram) if order is None else coefficients_in_order(gram, order)
    return coefficients @ gradients


def coefficients_in_order(gram: Tensor, order: Tensor) -> Tensor:
    """What sequential projection makes of the tasks' gradients, as coefficients of these: `[..., K, K]`.

    Args:
        gram: Inner products of the original gradients, `[..., K, K]`.
        order: Whom each task meets, int64 `[K, K]`.
    """
    unit = torch.eye(len(order), dtype=gram.dtype, device=gram.device)
    own = torch.arange(len(order), device=order.device)
    squares = gram.diagonal(dim1=-2, dim2=-1)  # [..., K]
    coefficients = unit.expand_as(gram)
    for met in order.unbind(1):  # [K]
        inner = (coefficients * gram.index_select(-2, met)).sum(-1)  # ⟨g_k, G_j⟩, [..., K]
        share = _share(inner, squares.index_select(-1, met))  # [..., K]
        share = torch.where(met == own, 0.0, share)
        coefficients = coefficients - share.unsqueeze(-1) * unit.index_select(0, met)
    return coefficients


def coefficients_at_once(gram: Tensor) -> Tensor:
    """What projecting on all conflicting originals at once makes of the tasks' gradients: `[..., K, K]`.

    Args:
        gram: Inner products of the original gradients, `[..., K, K]`.
    """
    unit = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    squares = gram.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)  # [..., 1, K]
    return unit - _share(gram, squares)  # a task does not conflict with itself


def _share(inner: Tensor, squares: Tensor) -> Tensor:
    """min(0, ⟨g, G_j⟩)/‖G_j‖², and 0 where that is not a number."""
    share = inner.clamp(max=0.0) / squares
    return torch.where((squares > 0) & share.isfinite(), share, 0.0)
