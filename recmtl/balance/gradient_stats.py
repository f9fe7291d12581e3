"""How the tasks' gradients of the shared tensors compare: whether there is any conflict to balance."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.balance.distributed import SINGLE_PROCESS, ProcessGroup
from recmtl.balance.representation.base import letting_pass
from recmtl.balance.shared import SharedTensor
from recmtl.balance.task_gradients.base import TaskGradients


class GradientStats(NamedTuple):
    """The tasks' gradients of all shared tensors together, before any balancing.

    Attributes:
        norms: The norm of each task's gradient, `[K]`; 0 where a task is absent or its gradient is not finite.
        cosines: The cosine between each two of them, `[K, K]`; 0 beside an absent task.
    """

    norms: Tensor
    cosines: Tensor


def gradient_stats(
    losses: Sequence[Tensor] | Mapping[str, Tensor],
    shared: Sequence[Tensor | SharedTensor],
    processes: ProcessGroup = SINGLE_PROCESS,
) -> GradientStats:
    """Measures the tasks' gradients and leaves everything as it was: the graph, `.grad`, and the balancer's state.

    Call it before `backward`. It costs one backward pass per task, up to the shared tensors; a fork lets the gradients
    pass without balancing them.

    Args:
        losses: K scalars, one per objective.
        shared: The leaves that more than one objective trains.
        processes: The processes that share the batch, each with its share of the losses.

    Shape:
        - output: `[K]` and `[K, K]`.

    Example:
        >>> import torch
        >>> x = torch.zeros(2, requires_grad=True)
        >>> norms, cosines = diagnose([3 * x[0], x[0] - x[1]], [x])
        >>> norms, cosines[0, 1]
        (tensor([3.0000, 1.4142]), tensor(0.7071))
    """
    ordered = list(losses.values() if isinstance(losses, Mapping) else losses)
    leaves = [leaf if isinstance(leaf, SharedTensor) else SharedTensor(leaf) for leaf in shared]
    leaves = [leaf for leaf in leaves if leaf.tensor.requires_grad]
    if not leaves:
        none = ordered[0].new_zeros(len(ordered))
        return GradientStats(none, none.diag())
    with letting_pass():
        gradients = _gradients(ordered, leaves)
    processes.add_up([gradient for task in gradients for gradient in task if gradient is not None])
    gram = TaskGradients(leaves, gradients).gram().sum(0)  # [K, K]
    norms = gram.diagonal().sqrt()
    scale = torch.outer(norms, norms)
    return GradientStats(norms, torch.where(scale > 0, gram / scale, 0.0))


def _gradients(losses: Sequence[Tensor], leaves: Sequence[SharedTensor]) -> list[list[Tensor]]:
    """The tasks' gradients, zeros where a task does not reach a leaf; autograd may share those that it gives."""
    tensors = [leaf.tensor for leaf in leaves]
    return [
        [
            gradient.clone()
            for gradient in torch.autograd.grad(
                loss, tensors, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        ]
        if loss.requires_grad
        else [torch.zeros_like(tensor) for tensor in tensors]
        for loss in losses
    ]
