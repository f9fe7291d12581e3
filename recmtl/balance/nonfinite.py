"""Cleaning of gradients that no balancer looks at."""

from collections.abc import Iterable

import torch
from torch import Tensor


@torch.no_grad()
def zero_nonfinite_gradients(tensors: Iterable[Tensor]) -> Tensor:
    """Set the NaN and infinite entries of gradients to zero, in place and without waiting for the device.

    A balancer leaves a task whose shared gradient is not finite out of the shared gradients. The gradients of private
    tensors, such as a tower's, are the plain sum: call this on them before the optimizer's step.

    Args:
        tensors: Tensors on one device with dense gradients in `.grad`; those without a gradient are skipped.

    Returns:
        Whether each tensor's gradient had such entries, bool `[tensors]`, on their device.

    Example:
        >>> import torch
        >>> x = torch.zeros(3, requires_grad=True)
        >>> x.grad = torch.tensor([1.0, float("nan"), float("-inf")])
        >>> zero_nonfinite_gradients([x])
        tensor([True])
        >>> x.grad
        tensor([1., 0., 0.])
    """
    tensors = list(tensors)
    gradients = [t.grad if t.grad is not None and t.grad.numel() else None for t in tensors]
    present = [gradient for gradient in gradients if gradient is not None]
    if not present:
        return torch.zeros(len(tensors), dtype=torch.bool, device=tensors[0].device if tensors else None)
    none = (present[0].new_zeros((), dtype=torch.float32),) * 2
    # Minimum and maximum are not finite if any entry is not, and cost a fraction of a norm.
    ends = [end.float() for gradient in gradients for end in (none if gradient is None else torch.aminmax(gradient))]
    for gradient in present:
        gradient.nan_to_num_(0.0, 0.0, 0.0)
    return ~torch.stack(ends).isfinite().view(-1, 2).all(1)
