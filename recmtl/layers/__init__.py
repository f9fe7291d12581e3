"""What several models are made of."""

from recmtl.layers.experts import Experts, Gates
from recmtl.layers.mlp import MLP, LayerStyle, parameters_of

__all__ = ["MLP", "Experts", "Gates", "LayerStyle", "parameters_of"]
