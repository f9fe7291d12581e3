"""The base of interactions: blocks between the encoder and the trunk of any model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn


class Interaction(nn.Module, ABC):
    """The base class of interactions: modules that combine the features of an encoded row.

    An encoder builds one from its width, `FeatureEncoder(schema, interaction=CrossLayers)`, and returns its output in
    place of the encoded batch. A subclass takes ``in_features`` first and implements `forward`.

    Shape:
        - input: ``[B, in_features]``
        - output: ``[B, out_features]``

    Attributes:
        in_features: The width of the input, W.
        out_features: The width of the output.

    Args:
        in_features: The width of the input, W.
        out_features: The width of the output.

    Example:
        >>> import torch
        >>> class Squares(Interaction):
        ...     def __init__(self, in_features):
        ...         super().__init__(in_features, 2 * in_features)
        ...     def forward(self, x):
        ...         return torch.cat([x, x.square()], 1)
        >>> Squares(3)(torch.zeros(5, 3)).shape
        torch.Size([5, 6])
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the combined features, ``[B, W]`` to ``[B, out_features]``."""


InteractionFactory = Callable[[int], Interaction]
"""Builds an interaction from W, the width of the encoded batch."""


def build_interaction(factory: InteractionFactory, width: int) -> Interaction:
    """Build the interaction of an encoder of so many columns.

    Raises:
        ValueError: `factory` is a module, or builds none with that width.
    """
    if isinstance(factory, nn.Module):
        name = type(factory).__name__
        raise ValueError(f"`interaction` must build a module from a width, got the module {name}: give its class")
    module = factory(width)
    name = type(module).__name__
    if not isinstance(module, nn.Module):
        raise ValueError(f"`interaction` must build a module from a width, got a {name}")
    reads, returns = getattr(module, "in_features", width), getattr(module, "out_features", None)
    if reads != width:
        raise ValueError(f"the interaction {name} must read the {width} columns of the encoder, but reads {reads}")
    if not isinstance(returns, int) or returns < 1:
        raise ValueError(f"the interaction {name} must say in `out_features` how wide its output is, got {returns}")
    return module


def interacted(module: Interaction, x: Tensor) -> Tensor:
    """Return the output of an interaction, ``[B, W]`` to ``[B, out_features]``.

    Raises:
        ValueError: The output has another shape.
    """
    output: Tensor = module(x)
    if output.shape != (x.shape[0], module.out_features):
        expected = [x.shape[0], module.out_features]
        raise ValueError(
            f"the interaction {type(module).__name__} must map {list(x.shape)} to {expected}, got {list(output.shape)}"
        )
    return output
