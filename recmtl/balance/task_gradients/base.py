"""The family that combines the tasks' gradients of the shared tensors: K backward passes, one combined gradient."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor

from recmtl.balance.backward import (
    as_real,
    backward_weighted,
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
from recmtl.balance.distributed import SINGLE_PROCESS, ProcessGroup, exchanges, gradients_to_sum, to_sum
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
        processes: The processes over which exchanged rows are spread. What is measured is that of all of them.

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
        processes: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.shared = tuple(shared)
        self._processes = processes
        self._scale, self._poison, self._gradients = scale, poison, gradients
        self._measured = [Measured(*pair) for pair in zip(shared, zip(*gradients, strict=True), strict=True)]
        if shared and not on_host(shared[0].tensor):
            self._measured = merge_neighbours(self._measured)
        tensors = [measured.shared for measured in self._measured]
        self._by_task = list(zip(*(measured.gradients for measured in self._measured), strict=True))
        norms = torch.stack([torch.cat(list(map(SharedTensor.norms, tensors, task))) for task in self._by_task])
        if self._spread is not None:
            norms.index_copy_(1, self._spread, processes.norm(norms.index_select(1, self._spread)))
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
        gram = self._products()
        if self._spread is not None:
            gram.index_copy_(0, self._spread, self._processes.sum(gram.index_select(0, self._spread))[0])
        gram = masked(gram, self.finite & self.finite[:, None])
        gram = gram if self._scale is None else gram / self._scale**2
        gram.diagonal(dim1=1, dim2=2).copy_(self.norms.square().T)
        return gram

    def _products(self) -> Tensor:
        """Return the inner products of this process's gradients, `[P, K, K]`; the diagonal may be 0."""
        tasks = len(self._by_task)
        if tasks >= FEW:
            return torch.cat([m.shared.gram(m.gradients) for m in self._measured])
        gram = self.norms.new_zeros(self.norms.shape[1], tasks, tasks)
        for i, j in combinations(range(tasks), 2):
            products = torch.cat([m.shared.products(m.gradients[i], m.gradients[j]) for m in self._measured])  # [P]
            gram[:, i, j] = products
            gram[:, j, i] = products
        return gram

    @property
    def _spread(self) -> Tensor | None:
        """The parts whose rows are spread over several processes, int64 `[parts]`; None without any."""
        found = tuple((m.shared.parts, m.shared.exchanged is not None) for m in self._measured)
        spread = self._processes.size > 1 and any(flag for _, flag in found)
        return _flagged_parts(found, self._measured[0].shared.tensor.device) if spread else None

    def add_combined(self, weights: Tensor) -> None:
        """Add Σ_k w_k,p·G_k,p to `.grad` of every shared tensor, with weights `[K, P]` or `[K, 1]`; call it once."""
        weights = masked(weights, self.finite.unsqueeze(1)).expand(-1, self.norms.shape[1])  # [K, P]
        if self._poison:
            weights = masked(weights, self.finite.all(), torch.nan)
        by_tensor = torch.split(weights, [measured.shared.parts for measured in self._measured], dim=1)
        for measured, own in zip(self._measured, by_tensor, strict=True):
            measured.add_weighted(own)


def _flagged_parts(found: tuple[tuple[int, bool], ...], device: torch.device) -> Tensor:
    """Return the parts whose tensor has a flag, int64, from the number of parts of each tensor and its flag."""
    return _flags_of_parts(found, torch.device("cpu")).nonzero().flatten().to(device)


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
    uses_products: ClassVar[bool] = False  # whether weights depend on inner products, beside norms

    def _balance(self, inputs: BackwardInputs) -> None:
        losses, shared = inputs.losses, inputs.shared
        tensors = [one.tensor for one in shared]
        for index, tensor in enumerate(shared):
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
        with self.processes.reduce_gradients(to_sum(inputs.private)) as reduced:
            through = exchanges(inputs.leaves)
            gradients: Sequence[Sequence[Tensor | None]] = _gradients_by_task(losses, finite, tensors, through)
            if self.processes.size > 1:
                gradients = [zeros_if_none(task, tensors) for task in gradients]
                reduced += gradients_to_sum(gradients, shared)
        if not shared:
            self.skipped += ~finite
            return
        with torch.no_grad(), full_precision(losses[0].device):
            scale = self._scale_on(losses[0].device)
            measured = TaskGradients(shared, gradients, scale, poison=self._guarded, processes=self.processes)
            self.skipped += ~(finite & measured.finite)
            measured.add_combined(self._weigh(measured))
            self._put_back_state(~measured.finite.all())

    @abstractmethod
    def _weigh(self, measured: TaskGradients) -> Tensor:
        """Return the weights `[K, P]` or `[K, 1]` of the tasks' gradients, and update the state of present tasks."""


def _gradients_by_task(
    losses: Sequence[Tensor], finite: Tensor, tensors: Sequence[Tensor], through: Sequence[Tensor]
) -> list[list[Tensor | None]]:
    """Run each loss backward, from 0 if it is not finite; the tensors' `.grad` is afterwards what it was before.

    Every pass goes `through` the exchanged rows, also that of a loss without a graph.
    """
    before = pop_gradients(tensors)
    gradients: list[list[Tensor | None]] = [[None] * len(tensors) for _ in losses]
    reached = [index for index, loss in enumerate(losses) if loss.requires_grad or through]
    starts, versions = finite.unbind(), [tensor._version for tensor in tensors]
    try:
        for index in reached:
            last = index == reached[-1]
            backward_weighted([losses[index]], [starts[index]], through, retain_graph=not last)
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
