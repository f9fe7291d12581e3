"""Building blocks that several models share."""

from recmtl.layers.ensemble import EnsembleInput, EnsembleLinear, EnsembleOutput
from recmtl.layers.experts import Experts, Gates
from recmtl.layers.mlp import MLP, LayerStyle

__all__ = ["MLP", "EnsembleInput", "EnsembleLinear", "EnsembleOutput", "Experts", "Gates", "LayerStyle"]
