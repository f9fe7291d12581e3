"""The family that combines the tasks' gradients of the shared tensors: K backward passes, one combined gradient."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, combinations
from typing import ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import (
    as_real,
    full_precision,
    has_hooks,
    is_finite,
    masked,
    on_host,
    pop_gradients,
    without_nonfinite,
    zeros_if_none,
)
from recmtl.balance.base import Balancer
from recmtl.balance.merging import merge_neighbours
from recmtl.balance.penalty import add_penalty
from recmtl.balance.shared import BackwardInputs, Measured, SharedTensor, Sizes

FEW = 4  # tasks below which products of pairs are faster than one of all


class TaskGradients:
    """The K tasks' gradients of the shared tensors, measured part by part.

    A task whose gradients are not all finite counts as absent: its norms and inner products are 0, and it adds nothing
    to the combined gradient. The gradients belong to this object, which writes into them. If they are those of scaled
    losses, norms and inner products are divided by the `scale`.

    Attributes:
        shared: The S shared tensors.
        finite: Whether each task's gradients are finite, bool `[K]`.
        norms: The norm of each task's gradient of each part, `[K, P]`; 0 for parts that the task does not reach.

    Shape:
        - gradients: K lists of S tensors, each shaped like its shared tensor, or None if the task does not reach it.

    Args:
        shared: The S shared tensors.
        gradients: Each task's gradients of them.
        scale: The factor in the losses, `[]`; None for 1.
        poison: Whether the combined gradient is NaN if that of a task is not finite, so that a `GradScaler` sees it.

    Example:
        >>> import torch
        >>> weight = SharedTensor(torch.zeros(2, 2), parts=2)
        >>> TaskGradients([weight], [[torch.tensor([[3.0, 4.0], [0.0, 1.0]])]]).norms
        tensor([[5., 1.]])
    """

    def __init__(
        self,
        shared: Sequence[SharedTensor],
        gradients: Sequence[Sequence[Tensor | None]],
        scale: Tensor | None = None,
        poison: bool = False,
    ) -> None:
        self.shared = tuple(shared)
        self._scale, self._poison, self._gradients = scale, poison, gradients
        self._measured = [Measured(*pair) for pair in zip(shared, zip(*gradients, strict=True), strict=True)]
        if shared and not on_host(shared[0].tensor):
            self._measured = merge_neighbours(self._measured)
        tensors = [measured.shared for measured in self._measured]
        self._by_task = list(zip(*(measured.gradients for measured in self._measured), strict=True))
        norms = torch.stack([torch.cat(list(map(SharedTensor.norms, tensors, task))) for task in self._by_task])
        self.finite = is_finite(norms).all(1)  # [K], from [K, P]
        self.norms = masked(norms if scale is None else norms / scale, self.finite.unsqueeze(1))
        for gradient in (gradient for task in self._by_task for gradient in task if gradient is not None):
            gradient.nan_to_num_(0.0, 0.0, 0.0)  # so that a weight of 0 is enough to leave a task out

    def by_element(self) -> Iterator[tuple[SharedTensor, slice, Tensor]]:
        """Yield each shared tensor with `elements`, its range among all E of them, and the tasks' gradients `[K, n]`.

        They are divided by the scale, and 0 for a task that is absent or not finite.
        """
        start = 0
        for shared, *gradients in zip(self.shared, *self._gradients, strict=True):
            if shared.elements:
                flat = torch.stack(
                    [as_real(g).flatten() for g in zeros_if_none(gradients, [shared.tensor] * len(gradients))]
                )
                flat = flat if self._scale is None else flat / self._scale
                yield shared, slice(start, start + shared.elements), masked(flat, self.finite.unsqueeze(1))
                start += shared.elements

    @property
    def by_element_parts(self) -> Tensor:
        """Which parts `by_element` yields, bool `[P]`."""
        found = tuple((shared.parts, shared.elements > 0) for shared in self.shared)
        return _flags_of_parts(found, self.norms.device)

    def add_by_element(self, gradient: Tensor) -> None:
        """Add a gradient of what `by_element` yields, `[E]`, times the scale; tensors that no task reaches get none."""
        gradient = gradient if self._scale is None else gradient * self._scale
        found = [
            (shared.tensor, *gradients)
            for shared, *gradients in zip(self.shared, *self._gradients, strict=True)
            if shared.elements
        ]
        parts = torch.split(gradient, [as_real(tensor).numel() for tensor, *_ in found])
        for (tensor, *gradients), part in zip(found, parts, strict=True):
            if any(own is not None for own in gradients):
                real = part.to(tensor.dtype.to_real()).view(as_real(tensor).shape)
                own = torch.view_as_complex(real) if tensor.is_complex() else real
                tensor.grad = own if tensor.grad is None else tensor.grad.add_(own)

    def gram(self) -> Tensor:
        """Return the inner products of the tasks' gradients by part, `[P, K, K]`; sum over P for whole gradients."""
        tasks, diagonal = len(self._by_task), self.norms.square().T  # [P, K]
        if tasks < FEW:
            gram = torch.diag_embed(diagonal)
            for i, j in combinations(range(tasks), 2):
                products = torch.cat([m.shared.products(m.gradients[i], m.gradients[j]) for m in self._measured])  # [P]
                products = masked(products, self.finite[i] & self.finite[j])
                products = products if self._scale is None else products / self._scale**2
                gram[:, i, j] = products
                gram[:, j, i] = products
            return gram
        gram = torch.cat([m.shared.gram(m.gradients) for m in self._measured])  # [P, K, K]
        gram = masked(gram, self.finite & self.finite[:, None])
        gram = gram if self._scale is None else gram / self._scale**2
        gram.diagonal(dim1=1, dim2=2).copy_(diagonal)
        return gram

    def add_combined(self, weights: Tensor) -> None:
        """Add Σ_k w_k,p·G_k,p to `.grad` of every shared tensor, with weights `[K, P]` or `[K, 1]`; call it once."""
        weights = masked(weights, self.finite.unsqueeze(1)).expand(-1, self.norms.shape[1])  # [K, P]
        if self._poison:
            weights = masked(weights, self.finite.all(), torch.nan)
        by_tensor = torch.split(weights, [measured.shared.parts for measured in self._measured], dim=1)
        for measured, own in zip(self._measured, by_tensor, strict=True):
            measured.add_weighted(own)


@cache  # a copy from the host would break the record of a CUDA graph
def _flags_of_parts(found: tuple[tuple[int, bool], ...], device: torch.device) -> Tensor:
    """Return a flag per part, bool `[P]`, from the number of parts of each tensor and its flag."""
    return torch.tensor([flag for parts, flag in found for _ in range(parts)], dtype=torch.bool).to(device)


class TaskGradientBalancer(Balancer, ABC):
    """The base class of methods that combine the tasks' gradients of the shared tensors.

    Each loss runs backward once; its gradient of the shared tensors is taken aside and measured part by part, and the
    weighted sum is added to `.grad`. Private gradients are those of the plain sum. A method registers its state in
    `_build` and computes the weights in `_weigh` from norms or inner products: a projection, too, is a linear
    combination of the tasks' gradients.

    Note:
        K passes go through one graph. A trunk from `torch.compile` allows only one, unless
        `torch._functorch.config.donated_buffer = False` was set before. Hooks that change a gradient
        (`register_hook`) run once per task; those that act on `.grad`, such as an optimizer's step, are refused.

    Example:
        >>> import torch
        >>> class UnitNorm(TaskGradientBalancer):
        ...     weights = None
        ...     def _build(self, sizes):
        ...         pass
        ...     def _weigh(self, measured):
        ...         return torch.where(measured.norms > 0, 1 / measured.norms, 0.0)
        >>> x = torch.tensor([0.0, 0.0], requires_grad=True)
        >>> UnitNorm().backward([3 * x[0], 5 * x[1]], shared=[x])
        >>> x.grad
        tensor([1., 1.])
    """

    depends_on: ClassVar[tuple[str, ...]] = ("objectives", "parts")

    def _balance(self, inputs: BackwardInputs) -> None:
        losses, shared, tensors = inputs.losses, inputs.shared, inputs.tensors
        for index, tensor in enumerate(shared):
            tensor.check(f"shared tensor {index}")
            if has_hooks(tensor.tensor):
                raise ValueError(
                    f"{type(self).__name__} runs one backward pass per task, and a hook of shared tensor {index} would "
                    "act on the gradient of each: step the optimizer after `backward`"
                )
        if len({id(tensor) for tensor in tensors}) != len(tensors):
            raise ValueError("`shared` must hold each tensor once")
        parts, elements = sum(tensor.parts for tensor in shared), sum(tensor.elements for tensor in shared)
        self._prepare(losses[0], Sizes(objectives=len(losses), parts=parts, elements=elements))
        if inputs.penalty is not None:
            add_penalty(inputs, self.processes, self._guarded)
        finite = self._finite(inputs.values)  # [K]
        losses = without_nonfinite(losses, finite)
        with self.processes.reduce_gradients(inputs.private) as reduced:
            gradients: Sequence[Sequence[Tensor | None]] = _gradients_by_task(losses, finite, tensors)
            if self.processes.size > 1:
                filled = [zeros_if_none(task, tensors) for task in gradients]
                reduced += chain.from_iterable(filled)
                gradients = filled
        if not shared:
            self.skipped += ~finite
            return
        with torch.no_grad(), full_precision(losses[0].device):
            measured = TaskGradients(shared, gradients, self._scale_on(losses[0].device), poison=self._guarded)
            self.skipped += ~(finite & measured.finite)
            measured.add_combined(self._weigh(measured))
            self._put_back_state(~measured.finite.all())

    @abstractmethod
    def _weigh(self, measured: TaskGradients) -> Tensor:
        """Return the weights `[K, P]` or `[K, 1]` of the tasks' gradients, and update the state of present tasks."""


def _gradients_by_task(
    losses: Sequence[Tensor], finite: Tensor, tensors: Sequence[Tensor]
) -> list[list[Tensor | None]]:
    """Run each loss backward, from 0 if it is not finite; the tensors' `.grad` is afterwards what it was before."""
    before = pop_gradients(tensors)
    gradients: list[list[Tensor | None]] = [[None] * len(tensors) for _ in losses]
    reached = [index for index, loss in enumerate(losses) if loss.requires_grad]
    starts, versions = finite.unbind(), [tensor._version for tensor in tensors]
    try:
        for index in reached:
            loss = losses[index]
            torch.autograd.backward(loss, starts[index].to(loss.dtype), retain_graph=index != reached[-1])
            gradients[index] = pop_gradients(tensors)
    finally:
        for tensor, gradient in zip(tensors, before, strict=True):
            tensor.grad = gradient
    if versions != [tensor._version for tensor in tensors]:
        raise RuntimeError(
            "a shared tensor was changed during the backward pass of one task: step the optimizer after `backward`, "
            "not in hooks on gradients"
        )
    if any(gradient is not None and gradient.is_sparse for task in gradients for gradient in task):
        raise ValueError("shared tensors must have dense gradients, got a sparse one: embed with `sparse=False`")
    return gradients
