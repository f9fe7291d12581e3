"""Norms and cosines of the tasks' gradients: whether they conflict at all."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.balance.backward import masked, zero_like, zeros_if_none
from recmtl.balance.bypass import bypass_forks
from recmtl.balance.distributed import SINGLE_PROCESS, ProcessGroup, exchanges, gradients_to_sum
from recmtl.balance.row_exchange import check_exchanges
from recmtl.balance.shared import SharedTensor, as_shared_tensors, listed_losses
from recmtl.balance.task_gradients.base import TaskGradients


class GradientStats(NamedTuple):
    """Norms and cosines of the tasks' gradients of all shared tensors, before any balancing.

    Attributes:
        norms: The norm of each task's gradient, `[K]`; 0 for a task that is absent or not finite.
        cosines: The cosine of each pair of them, `[K, K]`; 0 for pairs with an absent task.
    """

    norms: Tensor
    cosines: Tensor


def gradient_stats(
    losses: Sequence[Tensor] | Mapping[str, Tensor],
    shared: Sequence[Tensor | SharedTensor],
    processes: ProcessGroup = SINGLE_PROCESS,
) -> GradientStats:
    """Measure the tasks' gradients; the graph, `.grad` and the balancer's state stay as they were.

    Call it before `backward`. It costs one backward pass per task down to the shared tensors, and forks do not balance
    in it.

    Args:
        losses: K scalars, one per objective.
        shared: The leaves that more than one objective trains.
        processes: The processes that share the batch, each with its part of the losses.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> norms, cosines = gradient_stats([3 * x[0], x[0] - x[1]], [x])
        >>> norms, cosines[0, 1]
        (tensor([3.0000, 1.4142]), tensor(0.7071))
    """
    ordered = listed_losses(losses)
    trained = [s for s in as_shared_tensors(shared) if s.tensor.requires_grad]
    if not trained:
        none = ordered[0].new_zeros(len(ordered))
        return GradientStats(none, none.diag())
    tensors, through = [s.tensor for s in trained], exchanges(trained)
    if through:
        check_exchanges(trained, processes)
    with bypass_forks():
        gradients = [gradients_of(loss, tensors, summed=True, through=through) for loss in ordered]
    processes.all_reduce(gradients_to_sum(gradients, trained))
    gram = TaskGradients(trained, gradients, processes=processes).gram().sum(0)  # [K, K]
    norms = gram.diagonal().sqrt()
    scale = torch.outer(norms, norms)
    return GradientStats(norms, masked(gram / scale, scale > 0))


def gradients_of(
    loss: Tensor, tensors: Sequence[Tensor], summed: bool, through: Sequence[Tensor] = ()
) -> Sequence[Tensor | None]:
    """Return the loss's gradient of each tensor, None for one that it does not reach; the graph stays.

    The pass goes `through` these tensors in any case. Gradients that will be summed in place are clones, as autograd
    may return one tensor for two losses, or zeros.
    """
    found: Sequence[Tensor | None] = [None] * len(tensors)
    if roots := [*([loss] if loss.requires_grad else []), *through]:
        starts = [torch.ones_like(root) if root is loss else zero_like(root) for root in roots]
        found = torch.autograd.grad(roots, tensors, starts, retain_graph=True, allow_unused=True)
    return zeros_if_none([None if g is None else g.clone() for g in found], tensors) if summed else found
