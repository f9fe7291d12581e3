"""What is left to do for gradients that no balancer looks at."""

from collections.abc import Iterable

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
    gradients = [tensor.grad for tensor in tensors if tensor.grad is not None and tensor.grad.numel()]
    if not gradients:
        return torch.zeros((), dtype=torch.int64)
    # The extremes tell of any entry that is not finite, at a fraction of the cost of a norm.
    extremes = torch.stack([torch.stack(torch.aminmax(gradient)).float() for gradient in gradients])  # [tensors, 2]
    for gradient in gradients:
        gradient.nan_to_num_(0.0, 0.0, 0.0)
    return (~extremes.isfinite()).any(1).sum()
