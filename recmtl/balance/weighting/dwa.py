"""DWA: loss weights from how fast each loss fell over the last epochs."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import is_finite, masked
from recmtl.balance.shared import SharedTensor, Sizes
from recmtl.balance.weighting.base import LossWeightBalancer, present_softmax


class DWA(LossWeightBalancer):
    r"""Dynamic weight average: a loss that fell less than the others over the last epochs gets a larger weight.

    Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, arXiv:1803.10704, equation 7.
    With the mean loss L_k(t) of epoch t,

    $$
    w_k(t) = K \cdot \mathrm{softmax}\!\left( \frac{r(t)}{T} \right)_{\!k}, \qquad r_k(t) = \frac{L_k(t-1)}{L_k(t-2)}
    $$

    In the first two epochs all weights are 1, as for `Sum`.

    Use it if a training has many epochs and tasks learn at different rates. It costs one backward pass.

    Note:
        The trainer says when an epoch ends. A loop of your own calls `end_epoch()` after the last step of each epoch:
        **without it all weights stay 1**, as nothing else tells an epoch's end, and a training of one or two epochs is
        that of `Sum` in any case.

        A task's mean is over the steps in which it is present, by the losses of all processes. A task that has been
        present in fewer than two epochs has weight 1, and the softmax is over the others; so has a task whose mean was
        not positive in one of the last two, as its ratio says nothing about how fast it learns.

    Shape:
        - losses: K scalars.
        - weights: `[K]`, positive, with sum K.

    Args:
        temperature: How even the weights are, T: the larger, the closer to 1.

    Raises:
        ValueError: If `temperature` is not positive.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> balancer = DWA(temperature=2.0)
        >>> for second in (1.0, 0.5):  # the second loss halves from one epoch to the next
        ...     balancer.backward([x[0], second * x[1]], shared=[x])
        ...     balancer.end_epoch()
        >>> balancer.weights
        tensor([1.1244, 0.8756])
    """

    needs_epochs: ClassVar[bool] = True
    mean: Tensor
    steps: Tensor
    epochs: Tensor
    history: Tensor
    search_space: ClassVar[Mapping[str, Any]] = {"temperature": {"low": 0.5, "high": 8.0, "log": True}}

    def __init__(self, temperature: float = 2.0) -> None:
        super().__init__()
        if not 0 < temperature < torch.inf:
            raise ValueError(f"`temperature` must be positive, got {temperature}")
        self.temperature = temperature
        for name in ("mean", "steps", "epochs", "history"):
            self.register_buffer(name, None)

    @property
    def weights(self) -> Tensor | None:
        """The weights `[K]` of this epoch, or of the next one between two epochs."""
        if self._sizes is None:
            return None
        before, last = self.history.unbind(1)
        known = (self.epochs >= 2) & (before > 0) & (last > 0) & is_finite(last / before)  # [K]
        weights = known.sum() * present_softmax(masked(last / before / self.temperature, known), known)
        return masked(weights, known, 1.0)

    def _build(self, sizes: Sizes) -> None:
        self.mean = torch.zeros(sizes.objectives)  # of this epoch
        self.steps = torch.zeros(sizes.objectives, dtype=torch.int64)  # of this epoch
        self.epochs = torch.zeros(sizes.objectives, dtype=torch.int64)  # that had the task
        self.history = torch.zeros(sizes.objectives, 2)  # the means of the last two of them

    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[SharedTensor], last: Sequence[Tensor]
    ) -> Tensor:
        present = is_finite(values) & (values != 0)
        self.steps += present
        self.mean += masked((values - self.mean) / self.steps, present)
        weights = self.weights
        assert weights is not None
        return weights

    def _close_epoch(self) -> None:
        if self._sizes is None:
            return
        with self._between_steps():
            seen = self.steps > 0
            rolled = torch.stack([self.history[:, 1], self.mean], 1)  # [K, 2]
            self.history.copy_(torch.where(seen.unsqueeze(1), rolled, self.history))
            self.epochs += seen
            self.mean.zero_()
            self.steps.zero_()
