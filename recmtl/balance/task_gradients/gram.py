"""Methods whose weights are a function of the inner products of whole gradients."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import is_finite, masked
from recmtl.balance.constructor_checks import check_length, task_numbers
from recmtl.balance.shared import Sizes
from recmtl.balance.solver import LARGEST
from recmtl.balance.task_gradients.base import TaskGradientBalancer, TaskGradients

RIDGE = {torch.float32: 1e-6, torch.float64: 1e-13}  # above the rounding of measured cosines


class GramBalancer(TaskGradientBalancer, ABC):
    """The base class of methods with one weight per task, found from the Gram matrix M_jk = ⟨G_j, G_k⟩.

    The gradients are those of all shared parts together. A method implements `_combine`. If M is singular, as with two
    equal tasks, most methods have no unique answer: each M_kk is enlarged by the factor 1 + 1e-6, or 1 + 1e-13 if the
    shared tensors are float64.

    Args:
        preference: The share of each task in the mean that a method starts from, for methods that have one; equal by
            default. The shares of present tasks are divided by their sum.

    Raises:
        ValueError: If a share is negative or not finite, or all are 0.

    Example:
        >>> import torch
        >>> class Inverse(GramBalancer):
        ...     def _combine(self, gram, present):
        ...         return 1 / gram.diagonal().sqrt()
        >>> x = torch.zeros(2, requires_grad=True)
        >>> Inverse().backward([3 * x[0], 5 * x[1]], shared=[x])
        >>> x.grad
        tensor([1.0000, 1.0000])
    """

    depends_on: ClassVar[tuple[str, ...]] = ("objectives",)
    uses_products: ClassVar[bool] = True
    factors: Tensor
    shares: Tensor | None

    def __init__(self, preference: Sequence[float] | None = None) -> None:
        super().__init__()
        self.preference = None if preference is None else task_numbers("preference", preference, least=0.0)
        if self.preference is not None and not any(self.preference):
            raise ValueError(f"`preference` must hold a number above 0, got {self.preference}")
        self.rounding = 0.0  # of the Gram matrix in parts of its diagonal, with the ridge
        self.register_buffer("factors", None)
        self.register_buffer("shares", None, persistent=False)

    @property
    def weights(self) -> Tensor | None:
        """The weight of each G_k in the last step that had it, `[K]`; 1 before."""
        return None if self._sizes is None else self.factors.clone()

    def _build(self, sizes: Sizes) -> None:
        tasks = sizes.objectives
        if tasks > LARGEST:
            raise ValueError(f"{type(self).__name__} can balance at most {LARGEST} tasks, got {tasks}")
        check_length("preference", self.preference, tasks)
        if self.preference is not None:
            self.shares = torch.tensor(self.preference, dtype=torch.float64)
        self.factors = torch.ones(tasks)

    def _weigh(self, measured: TaskGradients) -> Tensor:
        gram = measured.gram().sum(0)  # [K, K]
        self.rounding = RIDGE[gram.dtype]
        gram = gram.double()
        squares = gram.diagonal()
        present = (squares > 0) & is_finite(squares)
        squares.mul_(1 + self.rounding)
        gram = masked(gram, present & present.unsqueeze(1))
        weights = masked(self._combine(gram, present), present)
        self.factors.copy_(torch.where(present, weights, self.factors))
        return weights.unsqueeze(1)  # [K, 1]

    @abstractmethod
    def _combine(self, gram: Tensor, present: Tensor) -> Tensor:
        """Return the weights w of the shared gradient Σ_k w_k·G_k, float64 `[K]`; those of absent tasks are not used.

        A task is `present`, bool `[K]`, if it has a gradient whose square can be represented. The rows and columns of
        absent tasks are 0 in `gram`, float64 `[K, K]`.
        """

    def _shares(self, present: Tensor) -> Tensor:
        """Return the shares of present tasks, float64 `[K]` with the sum 1; 0 for absent tasks."""
        shares = present.double() if self.shares is None else masked(self.shares.double(), present)
        return shares / shares.sum()


def cosines(gram: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines `[..., K, K]` and norms `[..., K]` of gradients from their inner products.

    Absent tasks are orthogonal to all and have norm 1.
    """
    norms = masked(gram.diagonal(dim1=-2, dim2=-1), present, 1.0).sqrt()
    cosine = (gram / norms.unsqueeze(-2) / norms.unsqueeze(-1)).clamp(-1.0, 1.0)
    return torch.diagonal_scatter(cosine, torch.ones_like(norms), dim1=-2, dim2=-1), norms
