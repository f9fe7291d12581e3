"""The plain sum of the losses."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recmtl.balance.shared import Sizes
from recmtl.balance.weighting.base import LossWeightBalancer


class Sum(LossWeightBalancer):
    r"""Adds the losses up: the step without balancing.

    $$
    g = \sum_{k=1}^{K} \nabla L_k
    $$

    Shape:
        - losses: K scalars.

    Example:
        >>> import torch
        >>> shared = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> Sum().backward([shared.sum(), 3 * shared[0]], shared=[shared])
        >>> shared.grad
        tensor([4., 1.])
    """

    @property
    def weights(self) -> Tensor | None:
        """Ones `[K]`."""
        return None if self._sizes is None else torch.ones(self._sizes.objectives, device=self.skipped.device)

    def _build(self, sizes: Sizes) -> None:
        pass

    def _weigh(
        self, losses: Sequence[Tensor], values: Tensor, shared: Sequence[Tensor], last: Sequence[Tensor]
    ) -> Tensor:
        return torch.ones_like(values)
