"""The family that weighs each task's gradient of the shared tensors: K backward passes, one combined gradient."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from recmtl.balance.base import Balancer
from recmtl.balance.shared import BackwardInputs, SharedTensor, Sizes


class TaskGradients:
    """The K tasks' gradients of the shared leaves, measured part by part.

    A task whose gradients are not all finite reads as absent: its norms and inner products are 0, and it adds
    nothing to what is combined. The gradients belong to this object, which writes into them.

    Attributes:
        leaves: The L shared leaves.
        finite: Whether each task's gradients are finite, bool `[K]`.
        norms: The norm of each task's gradient of each part, `[K, P]`; 0 where the task does not reach it.

    Shape:
        - gradients: K lists of L tensors, each shaped like its leaf, or None where the task does not reach it.

    Args:
        leaves: The L shared leaves.
        gradients: Each task's gradients of them.

    Example:
        >>> import torch
        >>> leaf = Leaf(torch.zeros(2, 2), parts=2)
        >>> measured = TaskGradients([leaf], [[torch.tensor([[3.0, 4.0], [0.0, 1.0]])]])
        >>> measured.norms
        tensor([[5., 1.]])
    """

    def __init__(self, leaves: Sequence[SharedTensor], gradients: Sequence[Sequence[Tensor | None]]) -> None:
        self.leaves = tuple(leaves)
        self._gradients = gradients
        measured = torch.stack([torch.cat(list(map(_part_norms, leaves, task))) for task in gradients])  # [K, P]
        self.finite = measured.isfinite().all(1)  # [K]
        self.norms = torch.where(self.finite.unsqueeze(1), measured, 0.0)
        for gradient in (gradient for task in gradients for gradient in task if gradient is not None):
            gradient.nan_to_num_(0.0, 0.0, 0.0)  # so that a weight of 0 is enough to leave a task out

    def gram(self) -> Tensor:
        """The inner products of the tasks' gradients, part by part: `[P, K, K]`; sum over P for whole gradients."""
        tasks = len(self._gradients)
        gram = torch.diag_embed(self.norms.square().T)  # [P, K, K]
        for i in range(tasks):
            for j in range(i):
                pairs = zip(self.leaves, self._gradients[i], self._gradients[j], strict=True)
                product = torch.cat([_part_products(leaf, a, b) for leaf, a, b in pairs])  # [P]
                product = torch.where(self.finite[i] & self.finite[j], product, 0.0)
                gram[:, i, j] = product
                gram[:, j, i] = product
        return gram

    def add_combined(self, weights: Tensor) -> None:
        """Adds Σ_k w_k,p·G_k,p to `.grad` of every leaf; can be called once.

        Args:
            weights: `[K, P]`, or `[K, 1]` for weights that all parts share.
        """
        weights = torch.where(self.finite.unsqueeze(1), weights, 0.0).expand(-1, self.norms.shape[1])  # [K, P]
        start = 0
        for leaf, gradients in zip(self.leaves, zip(*self._gradients, strict=True), strict=True):
            _add_weighted(leaf, weights[:, start : start + leaf.parts], gradients)
            start += leaf.parts


class TaskGradientBalancer(Balancer, ABC):
    """Combines the tasks' gradients of the shared leaves; private gradients are those of the plain sum.

    Each loss runs backward once; its gradient of the shared leaves is taken aside, measured part by part, and the
    weighted sum is added to `.grad`. A method registers its state in `_build` and computes the weights in `_weigh`,
    from norms or inner products: a projection, too, is a linear combination of the tasks' gradients.

    Note:
        K passes go through one graph. A trunk from `torch.compile` allows one alone, unless
        `torch._functorch.config.donated_buffer = False` was set before. Hooks on gradients run once per task.

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

    def _balance(self, given: BackwardInputs) -> None:
        losses, leaves, tensors = given.losses, given.leaves, given.shared
        for index, leaf in enumerate(leaves):
            _check(index, leaf)
        if len({id(leaf.tensor) for leaf in leaves}) != len(leaves):
            raise ValueError("`shared` must hold each tensor once")
        self._ready(losses[0], Sizes(objectives=len(losses), parts=sum(leaf.parts for leaf in leaves)))
        finite = given.values.isfinite()  # [K]
        with self.processes.adding_up(given.private) as added:
            gradients = _task_gradients(losses, finite, tensors)
            if self.processes.size > 1:
                gradients = [[_filled(gradient, tensors[i]) for i, gradient in enumerate(task)] for task in gradients]
                added += [gradient for task in gradients for gradient in task if gradient is not None]
        if not leaves:
            self.skipped += ~finite
            return
        with torch.no_grad(), torch.autocast(losses[0].device.type, enabled=False):
            measured = TaskGradients(leaves, gradients)
            self.skipped += ~(finite & measured.finite)
            measured.add_combined(self._weigh(measured))

    @abstractmethod
    def _weigh(self, measured: TaskGradients) -> Tensor:
        """The weights `[K, P]` or `[K, 1]` of the tasks' gradients; moves the state of present tasks."""


def _check(index: int, leaf: SharedTensor) -> None:
    tensor, rows = leaf.tensor, leaf.part_of_row
    if not tensor.is_leaf:
        raise ValueError(f"shared tensor {index} must be a leaf of the graph, got the output of {tensor.grad_fn}")
    if leaf.parts < 1:
        raise ValueError(f"shared tensor {index} must have at least 1 part, got {leaf.parts}")
    if rows is None and leaf.parts > 1 and (tensor.dim() == 0 or tensor.shape[0] % leaf.parts):
        raise ValueError(
            f"shared tensor {index} of shape {tuple(tensor.shape)} does not split into {leaf.parts} equal parts"
        )
    if rows is not None and (tensor.dim() == 0 or rows.shape != tensor.shape[:1]):
        raise ValueError(
            f"`part_of_row` of shared tensor {index} must have shape {tuple(tensor.shape[:1])}, got {tuple(rows.shape)}"
        )


def _task_gradients(losses: Sequence[Tensor], finite: Tensor, tensors: Sequence[Tensor]) -> list[list[Tensor | None]]:
    """Runs each loss backward, from 0 where it is not finite; the tensors' `.grad` is afterwards what it was."""
    kept = _take_gradients(tensors)
    gradients: list[list[Tensor | None]] = [[None] * len(tensors) for _ in losses]
    reached = [index for index, loss in enumerate(losses) if loss.requires_grad]
    starts = finite.unbind()
    try:
        for index in reached:
            loss = losses[index]
            torch.autograd.backward(loss, starts[index].to(loss.dtype), retain_graph=index != reached[-1])
            gradients[index] = _take_gradients(tensors)
    finally:
        for tensor, gradient in zip(tensors, kept, strict=True):
            tensor.grad = gradient
    if any(gradient is not None and gradient.is_sparse for task in gradients for gradient in task):
        raise ValueError("shared tensors must have dense gradients, got a sparse one: embed with `sparse=False`")
    return gradients


def _filled(gradient: Tensor | None, tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if gradient is None else gradient


def _take_gradients(tensors: Sequence[Tensor]) -> list[Tensor | None]:
    taken = [tensor.grad for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    return taken


def _blocks(leaf: SharedTensor, tensor: Tensor) -> Tensor:
    """A view whose first dimension runs over the parts, or over the rows where these name their part."""
    if tensor.dim() == 0:
        return tensor.unsqueeze(0)
    if leaf.part_of_row is not None:
        return tensor
    return tensor.view(leaf.parts, tensor.shape[0] // leaf.parts, *tensor.shape[1:])


def _rows(leaf: SharedTensor, tensor: Tensor) -> Tensor:
    blocks = _blocks(leaf, tensor)
    return blocks.flatten(1) if blocks.dim() > 1 else blocks.unsqueeze(1)  # [blocks, numbers]


def _per_part(leaf: SharedTensor, per_block: Tensor) -> Tensor:
    """Adds up what was measured row by row; what was measured chunk by chunk is per part already."""
    if leaf.part_of_row is None:
        return per_block
    return per_block.new_zeros(leaf.parts).index_add_(0, leaf.part_of_row, per_block)


def _measured_dtype(leaf: SharedTensor) -> torch.dtype:
    return torch.promote_types(leaf.tensor.dtype, torch.float32)


def _part_norms(leaf: SharedTensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return leaf.tensor.new_zeros(leaf.parts, dtype=_measured_dtype(leaf))
    norms = torch.linalg.vector_norm(_rows(leaf, gradient), dim=1, dtype=_measured_dtype(leaf))  # [blocks]
    return norms if leaf.part_of_row is None else _per_part(leaf, norms.square()).sqrt()


def _part_products(leaf: SharedTensor, a: Tensor | None, b: Tensor | None) -> Tensor:
    dtype = _measured_dtype(leaf)
    if a is None or b is None:
        return leaf.tensor.new_zeros(leaf.parts, dtype=dtype)
    return _per_part(leaf, (_rows(leaf, a).to(dtype) * _rows(leaf, b)).sum(1))


def _add_weighted(leaf: SharedTensor, weights: Tensor, gradients: Sequence[Tensor | None]) -> None:
    """Adds Σ_k w_k·G_k to the leaf's `.grad`, writing into the first gradient where there is nothing to add to."""
    if leaf.part_of_row is not None:
        weights = weights.index_select(1, leaf.part_of_row)  # [K, parts] -> [K, rows]
    weights = weights.to(leaf.tensor.dtype)
    for weight, gradient in zip(weights.unbind(), gradients, strict=True):
        if gradient is None:
            continue
        blocks = _blocks(leaf, gradient)
        weight = weight.view(-1, *[1] * (blocks.dim() - 1))  # [blocks, 1, ...]
        if leaf.tensor.grad is None:
            blocks.mul_(weight)
            leaf.tensor.grad = gradient
        else:
            _blocks(leaf, leaf.tensor.grad).addcmul_(blocks, weight)
