"""PPCGrad: conflicting gradients projected onto each other's normal planes, all at once."""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from recmtl.balance.task_gradients.projection import ProjectionBalancer, coefficients_at_once


class PPCGrad(ProjectionBalancer):
    r"""Parallel gradient surgery: projection of each task's gradient, at once, on all that it conflicts with.

    The parallel form of PCGrad (Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, arXiv:2001.06782),
    as computed not by the paper's algorithm but by its code for TensorFlow:

    $$
    g_k = G_k - \sum_{j \ne k} \frac{\min(0, \langle G_k, G_j \rangle)}{\lVert G_j \rVert^2}\, G_j
    $$

    All conflicts are those of the original gradients, so there is no order and nothing random. With two tasks it is
    `PCGrad`. The shared tensors receive the sum of the g_k, or their mean over the tasks that reach the part. Private
    gradients are those of the plain sum.

    Use it in place of `PCGrad` if steps must not depend on a random order.

    Note:
        With more than two tasks, a direction that several others share is removed once for each of them, so that g_k
        can end up pointing the other way.

    Shape:
        - losses: K scalars.
        - weights: `[K]`.

    Args:
        reduction: `mean` or `sum` of the projected gradients.
        scope: Whether gradients conflict as a `whole`, over all shared parts, or `part` by part.

    Raises:
        ValueError: If an argument is not one of its choices.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> PPCGrad(reduction="sum").backward([x[0], x[1] - x[0]], shared=[x])
        >>> x.grad
        tensor([0.5000, 1.5000])
    """

    search_space: ClassVar[Mapping[str, Any]] = {"reduction": ["mean", "sum"], "scope": ["whole", "part"]}

    def _coefficients(self, gram: Tensor, present: Tensor) -> Tensor:
        return coefficients_at_once(gram)
