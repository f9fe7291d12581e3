"""Building blocks that several models share."""

from recmtl.layers.experts import Experts, Gates
from recmtl.layers.mlp import MLP, LayerStyle

__all__ = ["MLP", "Experts", "Gates", "LayerStyle"]
