"""The family that weighs whole losses: one backward pass of Σ w_k·L_k."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import backward_weighted
from recmtl.balance.base import Balancer
from recmtl.balance.shared import BackwardInputs, Sizes


class LossWeightBalancer(Balancer, ABC):
    """Weighs each loss as a whole: shared and private gradients alike are those of Σ w_k·L_k.

    A method registers its state in `_build` and computes the K weights in `_weigh`.

    Note:
        A loss that is not finite is counted and gets a weight of 0. There is one backward pass for all tasks: where the
        graph of one multiplies by something that is not finite, what it shares with the others is not finite either,
        though their losses are. `zero_nonfinite_gradients` before the optimizer's step keeps that out of the weights.
        The other families leave out the one task alone.

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
    _formed: Mapping[Tensor, Sequence[Tensor | None]]

    def __init__(self) -> None:
        super().__init__()
        self._formed = {}

    def _balance(self, given: BackwardInputs) -> None:
        losses, values, tensors = given.losses, given.values, given.shared
        self._ready(losses[0], Sizes(objectives=len(losses)))
        finite = values.isfinite()
        weights = torch.where(finite, self._weigh(losses, values, tensors, given.last), 0.0)  # [K]
        self.skipped += ~finite
        formed, self._formed = self._formed, {}
        for tensor, gradients in formed.items():
            _add_weighted(tensor, gradients, weights)
        with self.processes.adding_up([tensor for tensor in (*tensors, *given.private) if tensor not in formed]):
            backward_weighted(losses, weights, without=list(formed))

    @abstractmethod
    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[Tensor], last: Sequence[Tensor]
    ) -> Tensor:
        """The weights `[K]` of this step, from the losses, their values `[K]` and the shared tensors.

        A method that forms gradients on the way hands them on in `_formed`: by leaf, one for each loss, None where that
        does not depend on the leaf. They are weighed instead of being formed anew, and must be those of all processes.
        """


def _add_weighted(tensor: Tensor, gradients: Sequence[Tensor | None], weights: Tensor) -> None:
    """Adds Σ_k w_k·G_k to the tensor's `.grad`; a weight of 0 counts for more than what is not finite."""
    for gradient, weight in zip(gradients, weights.to(tensor.dtype).unbind(), strict=True):
        if gradient is not None:
            part = torch.where(weight == 0, 0.0, gradient * weight)
            tensor.grad = part if tensor.grad is None else tensor.grad.add_(part)
