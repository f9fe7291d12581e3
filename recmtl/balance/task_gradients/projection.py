"""Gradient surgery: projections of conflicting gradients."""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor

from recmtl.balance.backward import full_precision, is_finite, masked
from recmtl.balance.shared import Sizes
from recmtl.balance.task_gradients.base import TaskGradientBalancer, TaskGradients


class ProjectionBalancer(TaskGradientBalancer, ABC):
    """The base class of methods that combine projected gradients g_k = Σ_i C_ki·G_i.

    Only the coefficients C are computed: the inner products ⟨G_i, G_j⟩ decide every projection, so the Gram matrix is
    enough, and the shared tensors are visited once. A method implements `_coefficients`.

    Args:
        reduction: `sum` of the projected gradients, or their `mean` over the tasks that reach the part.
        scope: Whether gradients conflict as a `whole`, over all shared parts, or `part` by part.

    Raises:
        ValueError: If an argument is not one of its choices.

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
    uses_products: ClassVar[bool] = True
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
        """The mean weight of each G_k over its parts in the last step that had it, `[K]`; 1 before."""
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
        """Return the coefficients C in each of G groups of parts, `[G, K, K]`, from the inner products `[G, K, K]`.

        A task is `present`, bool `[K]`, if it has a gradient in any part.
        """


def project_conflicting(gradients: Tensor, order: Tensor | None = None) -> Tensor:
    """Project each task's gradient onto the normal planes of the gradients that it conflicts with.

    With `order`, task k meets the others one after the other: if ⟨g_k, G_j⟩ < 0, g_k loses its component along the
    original gradient G_j (PCGrad, arXiv:2001.06782, algorithm 1). Without it, all conflicts of the original G_k are
    removed at once (`PPCGrad`). Zero gradients change nothing.

    Args:
        gradients: One gradient per task.
        order: The order in which each task meets the others: each row is a permutation of all tasks, in which the
            task itself is skipped.

    Returns:
        The projected gradients; their sum or mean is the shared gradient.

    Raises:
        ValueError: If a shape is not the one below.

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
    with full_precision(gradients.device):
        gram = (gradients @ gradients.mH).real  # [K, K]
        coefficients = coefficients_at_once(gram) if order is None else coefficients_in_order(gram, order)
        return coefficients.to(gradients.dtype) @ gradients


def coefficients_in_order(gram: Tensor, order: Tensor) -> Tensor:
    """Return the coefficients `[..., K, K]` of sequential projection, from inner products `[..., K, K]`."""
    unit = torch.eye(len(order), dtype=gram.dtype, device=gram.device)
    own = torch.arange(len(order), device=order.device)
    squares = gram.diagonal(dim1=-2, dim2=-1)  # [..., K]
    coefficients = unit.expand_as(gram)
    for met in order.unbind(1):  # [K]
        inner = (coefficients * gram.index_select(-2, met)).sum(-1)  # ⟨g_k, G_j⟩, [..., K]
        conflict = _conflict(inner, squares.index_select(-1, met))  # [..., K]
        conflict = masked(conflict, met != own)
        coefficients = coefficients - conflict.unsqueeze(-1) * unit.index_select(0, met)
    return coefficients


def coefficients_at_once(gram: Tensor) -> Tensor:
    """Return the coefficients `[..., K, K]` of all projections at once, from inner products `[..., K, K]`."""
    unit = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    squares = gram.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)  # [..., 1, K]
    return unit - _conflict(gram, squares)  # a task does not conflict with itself


def _conflict(inner: Tensor, squares: Tensor) -> Tensor:
    """Return min(0, ⟨g, G_j⟩)/‖G_j‖², and 0 if that is not finite."""
    conflict = inner.clamp(max=0.0) / squares
    return masked(conflict, (squares > 0) & is_finite(conflict))
