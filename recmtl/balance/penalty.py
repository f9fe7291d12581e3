"""A penalty beside the losses, which balancing does not see."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recmtl.balance.backward import is_finite, without_nonfinite
from recmtl.balance.bypass import bypass_forks
from recmtl.balance.distributed import ProcessGroup
from recmtl.balance.shared import check_losses


def add_penalty(penalty: Tensor, leaves: Sequence[Tensor], processes: ProcessGroup, scale: Tensor | None) -> Tensor:
    """Add the gradient of a penalty to the leaves, and return its value over all processes, `[]`.

    Forks let it through by the chain rule. The graph stays for the losses.

    Args:
        penalty: A scalar, of which each process has its rows' part.
        leaves: The leaves that several processes sum.
        processes: The processes that share the batch.
        scale: The factor in it, `[]`; None for 1.

    Raises:
        ValueError: If it is not a scalar.
    """
    check_losses([penalty], ["penalty"])
    value = penalty.detach()
    finite = is_finite(value)
    kept = without_nonfinite([penalty], finite[None])[0]
    with bypass_forks(), processes.reduce_gradients(leaves):
        if kept.requires_grad:
            torch.autograd.backward(kept, finite.to(kept.dtype), retain_graph=True)
    return processes.sum(value if scale is None else value / scale)[0]
