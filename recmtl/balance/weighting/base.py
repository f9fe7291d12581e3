"""The family that weights whole losses: one backward pass of Σ w_k·L_k."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import backward_weighted, is_finite, masked, without_nonfinite
from recmtl.balance.base import Balancer
from recmtl.balance.constructor_checks import check_rate
from recmtl.balance.distributed import exchanges, to_sum
from recmtl.balance.penalty import add_penalty, started_penalty
from recmtl.balance.shared import BackwardInputs, SharedTensor, Sizes
from recmtl.balance.task_adam import TaskAdam


class LossWeightBalancer(Balancer, ABC):
    """The base class of methods that weight each loss: all gradients, shared and private, are those of Σ w_k·L_k.

    A method registers its state in `_build` and computes the K weights in `_weigh`.

    Note:
        A loss that is not finite is counted and left out. All tasks share one backward pass: if a gradient within the
        graph of one is not finite, the gradients that it shares with others are not finite either. That happens behind
        a finite loss, and on a GPU, where no step waits to see which loss is finite, behind any.
        `zero_nonfinite_gradients` before the optimizer's step keeps it out of the weights. The other families leave
        out the one task alone.

    Example:
        >>> import torch
        >>> class FirstTwice(LossWeightBalancer):
        ...     weights = None
        ...     def _build(self, sizes):
        ...         pass
        ...     def _weigh(self, losses, values, shared, last):
        ...         weights = torch.ones_like(values)
        ...         weights[0] = 2.0
        ...         return weights
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> FirstTwice().backward([x, x], shared=[x])
        >>> x.grad
        tensor(3.)
    """

    depends_on: ClassVar[tuple[str, ...]] = ("objectives",)
    _known_gradients: Mapping[Tensor, Sequence[Tensor | None]]

    def __init__(self) -> None:
        super().__init__()
        self._known_gradients = {}

    def _balance(self, inputs: BackwardInputs) -> None:
        values = inputs.values
        self._prepare(inputs.losses[0], Sizes(objectives=len(inputs.losses)))
        finite = self._finite(values)
        losses = without_nonfinite(inputs.losses, finite)
        weights = masked(self._weigh(losses, values, inputs.shared, inputs.last), finite)  # [K]
        self.skipped += ~finite
        if self._guarded:
            self._put_back_state(~is_finite(values).all())
        known, self._known_gradients = self._known_gradients, {}
        for tensor, gradients in known.items():
            _add_weighted_gradients(tensor, gradients, weights)
        others = [tensor for tensor in to_sum(inputs.leaves) if tensor not in known]
        if known and inputs.penalty is not None:
            add_penalty(inputs, self.processes, self._guarded)
        elif inputs.penalty is not None:  # one pass for all
            penalty, start = started_penalty(inputs.penalty, self._guarded)
            losses, weights = [*losses, penalty], torch.cat([weights, start.to(weights.dtype)[None]])
        with self.processes.reduce_gradients(others):
            backward_weighted(losses, weights, through=exchanges(inputs.leaves), without=list(known))

    @contextmanager
    def _between_steps(self) -> Iterator[None]:
        """Move state between two steps: one that a scaler skipped is taken back before, and the next not beyond it."""
        decided = self._keep_state()
        yield
        if decided and self._loss_scale is not None:
            self._loss_scale.forget()

    @abstractmethod
    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[SharedTensor], last: Sequence[Tensor]
    ) -> Tensor:
        """Return the weights `[K]` of this step, from the losses, their values `[K]` and the shared tensors.

        A method that needs gradients for it can store them in `_known_gradients`: by leaf, one per loss, None for a
        loss that does not depend on it, summed over all processes. They are then not computed again.
        """


class LossValueBalancer(LossWeightBalancer, ABC):
    """The base class of methods whose weights depend on this step's losses, or on chance, alone.

    A method implements `_weights_of`. A loss of exactly 0 is taken for that of an absent task: it takes no part, and
    any gradient that it has is added as it is.

    Example:
        >>> import torch
        >>> class Inverse(LossValueBalancer):
        ...     def _weights_of(self, values, present):
        ...         return 1 / values
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> balancer = Inverse()
        >>> balancer.backward([x, x.square()], shared=[x])
        >>> x.grad, balancer.weights
        (tensor(1.5000), tensor([0.5000, 0.2500]))
    """

    factors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factors", None)

    @property
    def weights(self) -> Tensor | None:
        """The weight of each loss in the last step that had it, `[K]`; 1 before."""
        return None if self._sizes is None else self.factors.clone()

    def _build(self, sizes: Sizes) -> None:
        self.factors = torch.ones(sizes.objectives)

    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[SharedTensor], last: Sequence[Tensor]
    ) -> Tensor:
        present = is_finite(values) & (values != 0)
        weights = masked(self._weights_of(masked(values, present, 1.0), present), present, 1.0)
        self.factors.copy_(torch.where(present, weights, self.factors))
        return weights

    @abstractmethod
    def _weights_of(self, values: Tensor, present: Tensor) -> Tensor:
        """Return the weights `[K]` from the losses, 1 for a task that is not `present`, bool `[K]`."""


class LearnedWeightBalancer(LossWeightBalancer, ABC):
    """The base class of methods that learn one number s_k per task, with an Adam of its own, in buffers.

    A method implements `_weights_of` and `_slope`. The model receives the gradient of Σ w_k·L_k with the weights from
    before the update. A loss of exactly 0 is taken for that of an absent task, whose number stays. A loss below 0, with
    which the numbers would grow without bound, is left out of the step and counted in `skipped`.

    Args:
        lr: The learning rate of the numbers' own Adam.

    Raises:
        ValueError: If `lr` is not positive.

    Example:
        >>> import torch
        >>> class UnitLoss(LearnedWeightBalancer):
        ...     def _weights_of(self, numbers):
        ...         return numbers.exp()
        ...     def _slope(self, weights, values):
        ...         return weights * values - 1
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> balancer = UnitLoss(lr=0.1)
        >>> balancer.backward([x, x / 4], shared=[x])
        >>> bool(balancer.weights[0] < 1 < balancer.weights[1])
        True
    """

    search_space: ClassVar[Mapping[str, Any]] = {"lr": {"low": 0.0025, "high": 0.25, "log": True}}

    def __init__(self, lr: float = 0.025) -> None:
        super().__init__()
        check_rate(lr)
        self.lr = lr
        self.adam: TaskAdam | None = None

    @property
    def weights(self) -> Tensor | None:
        """The weights `[K]` of the next step."""
        return None if self.adam is None else self._weights_of(self.adam.values)

    def _build(self, sizes: Sizes) -> None:
        self.adam = TaskAdam(sizes.objectives, self.lr)

    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[SharedTensor], last: Sequence[Tensor]
    ) -> Tensor:
        assert self.adam is not None
        negative = is_finite(values) & (values < 0)
        self.skipped += negative
        present = is_finite(values) & (values > 0)
        weights = self._weights_of(self.adam.values)
        self.adam.step(masked(self._slope(weights, values), present), present)
        return masked(weights, ~negative)

    @abstractmethod
    def _weights_of(self, numbers: Tensor) -> Tensor:
        """Return the weights `[K]` from the numbers s `[K]`."""

    @abstractmethod
    def _slope(self, weights: Tensor, values: Tensor) -> Tensor:
        """Return the derivative by each number, `[K]`, of what the numbers minimise, from weights and losses `[K]`."""


def present_softmax(numbers: Tensor, present: Tensor) -> Tensor:
    """Return the softmax `[K]` over the tasks that are `present`, bool `[K]`, with 0 for the others."""
    shifted = masked(numbers, present, -torch.inf)
    powers = masked((shifted - shifted.max()).exp(), present)
    return powers / powers.sum()


def _add_weighted_gradients(tensor: Tensor, gradients: Sequence[Tensor | None], weights: Tensor) -> None:
    """Add Σ_k w_k·G_k to the tensor's `.grad`; a weight of 0 leaves out a gradient that is not finite."""
    for gradient, weight in zip(gradients, weights.to(tensor.dtype).unbind(), strict=True):
        if gradient is not None:
            part = masked(gradient * weight, weight != 0)
            tensor.grad = part if tensor.grad is None else tensor.grad.add_(part)
