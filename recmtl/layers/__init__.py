"""What several models are made of."""

from recmtl.layers.experts import Experts, Gates
from recmtl.layers.mlp import MLP, LayerStyle
from recmtl.layers.shared import SharedTensor, parameters_of

__all__ = ["MLP", "Experts", "Gates", "LayerStyle", "SharedTensor", "parameters_of"]
