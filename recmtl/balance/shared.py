"""What a balancer is told of a model: shared tensors with their parts, and sizes."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class SharedTensor(NamedTuple):
    """A shared tensor, and the parts that a balancer counts it as.

    Experts stacked in one wide weight, or the features of one flat table, are tensors of their own to a method
    that works tensor by tensor. The parts say where they lie.

    Attributes:
        tensor: A leaf of the graph, of any shape.
        parts: The number of parts.
        part_of_row: The part of each row of dimension 0, int64 `[rows]`; None for `parts` equal chunks of it.

    Example:
        >>> import torch
        >>> experts = torch.zeros(4 * 16, 32, requires_grad=True)  # four experts' first layers in one weight
        >>> Leaf(experts, parts=4).parts
        4
    """

    tensor: Tensor
    parts: int = 1
    part_of_row: Tensor | None = None


class BackwardInputs(NamedTuple):
    """What a step gives a balancer.

    Attributes:
        losses: K scalars.
        values: Their values over all processes, `[K]` of at least float32, without their graph.
        leaves: The shared leaves.
        last: Those of them that come last before the views.
        private: All other leaves that are trained, where several processes share the batch.
    """

    losses: Sequence[Tensor]
    values: Tensor
    leaves: Sequence[SharedTensor]
    last: Sequence[Tensor]
    private: Sequence[Tensor]

    @property
    def shared(self) -> list[Tensor]:
        """The shared leaves' tensors."""
        return [leaf.tensor for leaf in self.leaves]


class Sizes(NamedTuple):
    """The sizes that a balancer's state may depend on; 0 where it does not depend on one.

    Attributes:
        objectives: The number of losses, K.
        heads: The number of views, H.
        features: The width of a view, D.
        parts: The number of parts of all shared leaves together, P.
    """

    objectives: int = 0
    heads: int = 0
    features: int = 0
    parts: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{size} {name}" for name, size in self._asdict().items() if size) or "no sizes"
