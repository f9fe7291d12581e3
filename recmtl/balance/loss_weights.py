"""The family that weighs whole losses: one backward pass of Σ w_k·L_k."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from recmtl.balance.base import Balancer
from recmtl.balance.leaf import Leaf, Sizes
from recmtl.balance.passes import backward_weighted, detached


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

    def _balance(self, losses: Sequence[Tensor], leaves: Sequence[Leaf], last: Sequence[Tensor]) -> None:
        self._ready(losses[0], Sizes(objectives=len(losses)))
        tensors = [leaf.tensor for leaf in leaves]
        values = detached(losses)  # [K]
        finite = values.isfinite()
        weights = self._weigh(losses, values, tensors, last)  # [K]
        self.skipped += ~finite
        backward_weighted(losses, torch.where(finite, weights, 0.0))

    @abstractmethod
    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[Tensor], last: Sequence[Tensor]
    ) -> Tensor:
        """The weights `[K]` of this step, from the losses, their values `[K]` and the shared tensors."""
