"""Sum: the losses without balancing."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from recmtl.balance.shared import SharedTensor, Sizes
from recmtl.balance.weighting.base import LossWeightBalancer


class Sum(LossWeightBalancer):
    r"""The plain sum of the losses, without balancing.

    $$
    g = \sum_{k=1}^{K} \nabla L_k
    $$

    Use it as the baseline: a balancer that does not beat it on your data is not worth its cost.

    Shape:
        - losses: K scalars.
        - weights: `[K]`, all 1.

    Example:
        >>> import torch
        >>> shared = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> Sum().backward([shared.sum(), 3 * shared[0]], shared=[shared])
        >>> shared.grad
        tensor([4., 1.])
    """

    additive: ClassVar[bool] = True

    @property
    def weights(self) -> Tensor | None:
        """Ones `[K]`."""
        return None if self._sizes is None else torch.ones(self._sizes.objectives, device=self.skipped.device)

    def _build(self, sizes: Sizes) -> None:
        pass

    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[SharedTensor], last: Sequence[Tensor]
    ) -> Tensor:
        return torch.ones_like(values)
