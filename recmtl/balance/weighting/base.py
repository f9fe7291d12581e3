"""The family that weights whole losses: one backward pass of Σ w_k·L_k."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import backward_weighted, masked, without_nonfinite
from recmtl.balance.base import Balancer
from recmtl.balance.penalty import add_penalty, started_penalty
from recmtl.balance.shared import BackwardInputs, Sizes


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
        values, tensors = inputs.values, inputs.tensors
        self._prepare(inputs.losses[0], Sizes(objectives=len(inputs.losses)))
        finite = self._finite(values)
        losses = without_nonfinite(inputs.losses, finite)
        weights = masked(self._weigh(losses, values, tensors, inputs.last), finite)  # [K]
        self.skipped += ~finite
        known, self._known_gradients = self._known_gradients, {}
        for tensor, gradients in known.items():
            _add_weighted_gradients(tensor, gradients, weights)
        others = [tensor for tensor in (*tensors, *inputs.private) if tensor not in known]
        if known and inputs.penalty is not None:
            add_penalty(inputs, self.processes, self._guarded)
        elif inputs.penalty is not None:  # one pass for all
            penalty, start = started_penalty(inputs.penalty, self._guarded)
            losses, weights = [*losses, penalty], torch.cat([weights, start.to(weights.dtype)[None]])
        with self.processes.reduce_gradients(others):
            backward_weighted(losses, weights, without=list(known))

    @abstractmethod
    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[Tensor], last: Sequence[Tensor]
    ) -> Tensor:
        """Return the weights `[K]` of this step, from the losses, their values `[K]` and the shared tensors.

        A method that needs gradients for it can store them in `_known_gradients`: by leaf, one per loss, None for a
        loss that does not depend on it, summed over all processes. They are then not computed again.
        """


def _add_weighted_gradients(tensor: Tensor, gradients: Sequence[Tensor | None], weights: Tensor) -> None:
    """Add Σ_k w_k·G_k to the tensor's `.grad`; a weight of 0 leaves out a gradient that is not finite."""
    for gradient, weight in zip(gradients, weights.to(tensor.dtype).unbind(), strict=True):
        if gradient is not None:
            part = masked(gradient * weight, weight != 0)
            tensor.grad = part if tensor.grad is None else tensor.grad.add_(part)
