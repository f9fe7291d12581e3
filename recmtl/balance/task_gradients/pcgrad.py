"""PCGrad: conflicting gradients projected onto each other's normal planes, one after the other."""

from typing import Literal

from torch import Tensor

from recmtl.balance.random_orders import RandomOrders
from recmtl.balance.task_gradients.projection import ProjectionBalancer, coefficients_in_order


class PCGrad(ProjectionBalancer):
    r"""Takes from each task's gradient, in a random order, what points against another task's.

    Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, arXiv:2001.06782, algorithm 1. For each
    task k, g_k starts as G_k and meets the other tasks j ≠ k in random order, always with the original G_j:

    $$
    g_k \leftarrow g_k - \frac{\min(0, \langle g_k, G_j \rangle)}{\lVert G_j \rVert^2}\, G_j
    $$

    The shared tensors receive the sum of the g_k, or
    their mean; a task without a gradient takes no part. Private gradients are those of the plain sum.

    Note:
        The paper adds the g_k up; its best-known ports average them, and so does the default. With `sum` and no
        conflict the step is exactly that of `Sum`; with `mean` it is up to K times smaller. Parts count one by one:
        the mean is over the tasks that reach the part. The orders are drawn from a counter, not from a global
        generator: seed and counter are the state, any device draws the same, and a step without gradients draws
        nothing.

    Shape:
        - losses: K scalars.

    Attributes:
        orders: `orders(K)` gives, row by row, whom each task meets at the next step; its own place is passed over.

    Args:
        reduction: `mean` or `sum` of the projected gradients.
        scope: Whether gradients conflict as a `whole`, over all shared parts, or `part` by part.
        seed: Decides the orders; below 2³².

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> PCGrad(reduction="sum").backward([x[0], x[1] - x[0]], shared=[x])
        >>> x.grad  # (1, 0) becomes (½, ½), and (−1, 1) becomes (0, 1)
        tensor([0.5000, 1.5000])
    """

    def __init__(
        self,
        reduction: Literal["mean", "sum"] = "mean",
        scope: Literal["whole", "part"] = "whole",
        seed: int = 0,
    ) -> None:
        super().__init__(reduction, scope)
        self.orders = RandomOrders(seed)

    def _coefficients(self, gram: Tensor, present: Tensor) -> Tensor:
        coefficients = coefficients_in_order(gram, self.orders(len(present)))
        self.orders.advance(present.any())
        return coefficients
