"""MMOE: experts that all tasks share, mixed anew for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import Experts, Gates, LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.schema import FittedSchema


class MMOE(RankingModel):
    """Multi-gate mixture of experts (Ma et al., KDD 2018, eq. 6): view k is Σ_e g_k(x)_e · f_e(x).

    Args:
        schema: The fitted schema; its tasks are the heads and the objectives.
        experts: How many experts.
        layers: The widths of each expert's layers.
        tower_layers: The hidden layers of the default towers.
        style: What stands around each linear layer; its normalisation stands in the gates, too.
        towers: Towers of one's own by the name of their task.
        encoder: Builds the encoder.

    Raises:
        ValueError: There is no expert, no layer, or `towers` names no task.
    """

    def __init__(
        self,
        schema: FittedSchema,
        experts: int = 4,
        layers: Sequence[int] = (256, 128),
        tower_layers: Sequence[int] = (64,),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        super().__init__(schema, schema.schema.tasks, encoder)
        self.experts = Experts(self.encoder.out_features, experts, layers, style)
        self.gates = Gates(self.encoder.out_features, len(self.objectives), experts, style)
        self.build_heads(self.objectives, self.experts.out_features, tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Give each head's own mixture of the experts."""
        x = self.encoder(batch)  # [B, W]
        return torch.bmm(self.gates(x), self.experts(x)).unbind(1)  # [B, H, E] · [B, E, D] -> H of [B, D]

    def expert_usage(self, batch: Batch) -> dict[str, Tensor]:
        """Give by head the weights of its gate."""
        return dict(zip(self.heads, self.gates(self.encoder(batch)).unbind(1), strict=True))  # H of [B, E]

    def shared(self) -> Shared:
        """Name the encoder and the experts; the experts' last weights lie last."""
        return Shared((*self.encoder.shared(), *self.experts.shared()), self.experts.last_weights)
