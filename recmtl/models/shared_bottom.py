"""Shared-bottom: one MLP that all tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import MLP, LayerStyle, parameters_of
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.schema import FittedSchema


class SharedBottom(RankingModel):
    """One MLP that all tasks share, and a tower for each (Caruana, Machine Learning 28, 1997).

    Args:
        schema: The fitted schema; its tasks are the heads and the objectives.
        layers: The widths of the shared layers.
        tower_layers: The hidden layers of the default towers.
        style: What stands around each linear layer.
        towers: Towers of one's own by the name of their task.
        encoder: Builds the encoder.

    Raises:
        ValueError: There is no shared layer, or `towers` names no task.
    """

    def __init__(
        self,
        schema: FittedSchema,
        layers: Sequence[int] = (256, 128),
        tower_layers: Sequence[int] = (64,),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        super().__init__(schema, schema.schema.tasks, encoder)
        if not layers:
            raise ValueError("a shared bottom needs at least one layer")
        self.bottom = MLP(self.encoder.out_features, layers, style)
        self.build_heads(self.objectives, self.bottom.out_features, tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Give the output of the bottom, once per head."""
        return (self.bottom(self.encoder(batch)),) * len(self.heads)

    def shared(self) -> Shared:
        """Name the encoder and the bottom; the bottom's last weight lies last."""
        return Shared((*self.encoder.shared(), *parameters_of(self.bottom)), self.bottom.last_weights)
