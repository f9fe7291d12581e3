"""What is left to do for gradients that no balancer looks at."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


@torch.no_grad()
def zero_nonfinite_gradients(tensors: Iterable[Tensor]) -> Tensor:
    """Sets the NaN and infinite entries of the tensors' gradients to zero, in place and without a host sync.

    A balancer leaves a task whose shared gradient is not finite out of the shared gradients. The private ones, a
    tower's own, are the sum that autograd makes: call this on them before the optimizer's step.

    Args:
        tensors: Tensors of one device with dense gradients in `.grad`; those without one are passed over.

    Returns:
        The number of tensors that had such entries, int64 `[]`, on their device.

    Example:
        >>> import torch
        >>> x = torch.zeros(3, requires_grad=True)
        >>> x.grad = torch.tensor([1.0, float("nan"), float("-inf")])
        >>> zero_nonfinite_gradients([x])
        tensor(1)
        >>> x.grad
        tensor([1., 0., 0.])
    """
    return zero_and_mark(list(tensors)).sum()


@torch.no_grad()
def zero_and_mark(tensors: Sequence[Tensor]) -> Tensor:
    """Does what `zero_nonfinite_gradients` does, and says where.

    Args:
        tensors: Tensors of one device.

    Returns:
        Whether each tensor's gradient had such entries, bool `[tensors]`, on their device.
    """
    gradients = [t.grad if t.grad is not None and t.grad.numel() else None for t in tensors]
    present = [gradient for gradient in gradients if gradient is not None]
    if not present:
        return torch.zeros(len(tensors), dtype=torch.bool, device=tensors[0].device if tensors else None)
    none = (present[0].new_zeros((), dtype=torch.float32),) * 2
    # The extremes tell of any entry that is not finite, at a fraction of the cost of a norm.
    ends = [end.float() for gradient in gradients for end in (none if gradient is None else torch.aminmax(gradient))]
    for gradient in present:
        gradient.nan_to_num_(0.0, 0.0, 0.0)
    return ~torch.stack(ends).isfinite().view(-1, 2).all(1)
