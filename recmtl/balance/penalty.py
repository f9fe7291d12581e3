"""A penalty beside the losses, which balancing does not see."""

import torch
from torch import Tensor

from recmtl.balance.backward import backward_weighted, is_finite, without_nonfinite
from recmtl.balance.bypass import bypass_forks
from recmtl.balance.distributed import ProcessGroup, exchanges, to_sum
from recmtl.balance.shared import BackwardInputs, check_losses


def penalty_value(penalty: Tensor, processes: ProcessGroup, scale: Tensor | None) -> Tensor:
    """Return the value of a penalty over all processes, `[]`, divided by the factor in it.

    Raises:
        ValueError: If it is not a scalar.
    """
    check_losses([penalty], ["penalty"])
    value = penalty.detach()
    return processes.sum(value if scale is None else value / scale)[0]


def started_penalty(penalty: Tensor, guarded: bool) -> tuple[Tensor, Tensor]:
    """Return a penalty and the gradient that its backward pass starts from: 1, or 0 if it is not finite.

    If a scaler looks for what is not finite, the penalty is `guarded`: it starts from 1 whatever it is.
    """
    if guarded:
        return penalty, torch.ones_like(penalty)
    finite = is_finite(penalty.detach())
    return without_nonfinite([penalty], finite[None])[0], finite.to(penalty.dtype)


def add_penalty(inputs: BackwardInputs, processes: ProcessGroup, guarded: bool) -> None:
    """Add the gradient of the penalty to all leaves, by a pass of its own that forks let through by the chain rule.

    The graph stays for the losses.
    """
    assert inputs.penalty is not None
    penalty, start = started_penalty(inputs.penalty, guarded)
    with bypass_forks(), processes.reduce_gradients(to_sum(inputs.leaves)):
        backward_weighted([penalty], [start], through=exchanges(inputs.leaves), retain_graph=True)
