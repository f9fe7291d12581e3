"""Backward passes, and the gradients that they leave."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


def backward_weighted(
    losses: Sequence[Tensor], weights: Tensor | Sequence[Tensor], without: Sequence[Tensor] = ()
) -> None:
    """Run one backward pass of the weighted sum of the losses that have a graph.

    The losses are scalars, or tensors of the shapes of their weights. A weight of exactly 0 starts a task's pass from a
    zero gradient, even if its loss is not finite. The leaves in `without` get no gradient.
    """
    pairs = zip(losses, weights, strict=True)
    reached = [(loss, weight.to(loss.dtype)) for loss, weight in pairs if loss.requires_grad]
    if not reached:
        return
    inputs = None
    if without:
        excluded = {id(tensor) for tensor in without}
        inputs = [leaf for leaf in leaves_of([loss for loss, _ in reached]) if id(leaf) not in excluded]
        if not inputs:
            return
    torch.autograd.backward([loss for loss, _ in reached], [weight for _, weight in reached], inputs=inputs)


def gradients_of(loss: Tensor, tensors: Sequence[Tensor], summed: bool) -> Sequence[Tensor | None]:
    """Return the loss's gradient of each tensor, None for one that it does not reach; the graph stays.

    Gradients that will be summed in place are clones, as autograd may return one tensor for two losses, or zeros.
    """
    found: Sequence[Tensor | None] = [None] * len(tensors)
    if loss.requires_grad:
        found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    return zeros_if_none([None if g is None else g.clone() for g in found], tensors) if summed else found


def zeros_if_none(gradients: Sequence[Tensor | None], tensors: Sequence[Tensor] | None = None) -> list[Tensor]:
    """Return the gradients with zeros for None, shaped like the tensors or else like the first gradient."""
    if tensors is None:
        tensors = [next(gradient for gradient in gradients if gradient is not None)] * len(gradients)
    pairs = zip(gradients, tensors, strict=True)
    return [torch.zeros_like(tensor) if gradient is None else gradient for gradient, tensor in pairs]


def pop_gradients(tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the `.grad` of each tensor and set it to None."""
    gradients = [tensor.grad for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    return gradients


def leaves_of(losses: Sequence[Tensor]) -> list[Tensor]:
    """Return the leaves of the losses' graphs."""
    leaves = [loss for loss in losses if loss.grad_fn is None]
    seen: set[Any] = set()
    nodes: list[Any] = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            leaves.append(node.variable)
        nodes += [following for following, _ in node.next_functions if following is not None]
    return leaves


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
