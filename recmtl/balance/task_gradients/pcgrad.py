"""PCGrad: conflicting gradients projected onto each other's normal planes, one after the other."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor

from recmtl.balance.counter_generator import RandomOrders
from recmtl.balance.task_gradients.projection import (
    ProjectionBalancer,
    coefficients_at_once,
    coefficients_in_order,
)


class PCGrad(ProjectionBalancer):
    r"""Gradient surgery: projection of each task's gradient, in random order, on those that it conflicts with.

    Yu, Kumar, Gupta, Levine, Hausman and Finn, "Gradient Surgery for Multi-Task Learning", NeurIPS 2020,
    arXiv:2001.06782, algorithm 1. For each task k, g_k starts as G_k and meets the other tasks j ≠ k in random order,
    always with their original gradient G_j:

    $$
    g_k \leftarrow g_k - \frac{\min(0, \langle g_k, G_j \rangle)}{\lVert G_j \rVert^2}\, G_j
    $$

    The shared tensors receive the sum or the mean of the g_k. A task without a gradient takes no part. Private
    gradients are those of the plain sum.

    Use it if the tasks' gradients often point against each other (`gradient_stats` measures their cosines) and are of
    similar size.

    Note:
        The paper sums the g_k; its best-known ports average them, and so does the default. With `sum` and no conflict
        the step is exactly that of `Sum`; with `mean` it is up to K times smaller. A `mean` is taken part by part over
        the tasks that reach the part, while the ports sum a parameter that only some tasks reach.

        The torch port and LibMTL also project on the task's own gradient. With more than two tasks the result differs.

        The orders come from a counter, not from a global generator: seed and counter are state, every device draws the
        same, and a step without gradients draws nothing.

    Shape:
        - losses: K scalars.
        - weights: `[K]`.

    Attributes:
        orders: `orders(K)` returns the orders of the next step, a permutation of all tasks per row.

    Args:
        reduction: `mean` or `sum` of the projected gradients.
        scope: Whether gradients conflict as a `whole`, over all shared parts, or `part` by part.
        seed: The seed of the random orders, below 2³².

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> PCGrad(reduction="sum").backward([x[0], x[1] - x[0]], shared=[x])
        >>> x.grad  # (1, 0) becomes (½, ½), and (−1, 1) becomes (0, 1)
        tensor([0.5000, 1.5000])
    """

    search_space: ClassVar[Mapping[str, Any]] = {"reduction": ["mean", "sum"], "scope": ["whole", "part"]}

    def __init__(
        self,
        reduction: Literal["mean", "sum"] = "mean",
        scope: Literal["whole", "part"] = "whole",
        seed: int = 0,
    ) -> None:
        super().__init__(reduction, scope)
        self.orders = RandomOrders(seed)

    def _coefficients(self, gram: Tensor, present: Tensor) -> Tensor:
        if len(present) == 2:  # a task meets one other: there is no order to choose
            return coefficients_at_once(gram)
        coefficients = coefficients_in_order(gram, self.orders(len(present)))
        self.orders.advance(present.any())
        return coefficients
