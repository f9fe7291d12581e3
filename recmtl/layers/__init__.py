"""Building blocks that several models share."""

from recmtl.layers.cross_layers import CrossLayers
from recmtl.layers.ensemble import EnsembleInput, EnsembleLinear, EnsembleOutput
from recmtl.layers.experts import Experts, Gates
from recmtl.layers.final_mlp import FinalMLP
from recmtl.layers.gated_cross_layers import GatedCrossLayers
from recmtl.layers.interaction import Interaction, InteractionFactory
from recmtl.layers.mask_net import MaskNet
from recmtl.layers.mlp import MLP, LayerStyle

__all__ = [
    "MLP",
    "CrossLayers",
    "EnsembleInput",
    "EnsembleLinear",
    "EnsembleOutput",
    "Experts",
    "FinalMLP",
    "GatedCrossLayers",
    "Gates",
    "Interaction",
    "InteractionFactory",
    "LayerStyle",
    "MaskNet",
]
