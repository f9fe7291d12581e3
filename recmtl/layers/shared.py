"""How a layer names the tensors that several objectives train."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class SharedTensor(NamedTuple):
    """A tensor that task gradients are taken of, and the parts that it counts as.

    However experts or tables are laid out for speed, a method that works tensor by tensor sees the parts.

    Args:
        tensor: The parameter.
        parts: How many parts it has.
        part_of_row: int64 ``[rows]``, the part of each row of dimension 0; ``None`` cuts dimension 0 into equal chunks.
    """

    tensor: Tensor
    parts: int = 1
    part_of_row: Tensor | None = None


def parameters_of(module: nn.Module, parts: int = 1) -> list[SharedTensor]:
    """Name all parameters of a module, each cut into so many equal parts."""
    return [SharedTensor(parameter, parts) for parameter in module.parameters()]
