"""Single-task training: a network of its own for each task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import MLP, LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.schema import FittedSchema


class SingleTask(RankingModel):
    """An encoder, layers and a tower of its own for each task: what sharing is held against.

    Nothing is shared, so there is nothing to balance: it is trained with `Sum` alone.

    Note:
        All tasks are trained at once, which equals one training for each but for what looks at all of them: early
        stopping, the choice of the best weights and `clip_norm`.

    Args:
        schema: The fitted schema; its tasks are the heads and the objectives.
        layers: The widths of the layers below each tower.
        tower_layers: The hidden layers of the default towers.
        style: What stands around each linear layer.
        towers: Towers of one's own by the name of their task.
        encoder: Builds the encoders.

    Raises:
        ValueError: `layers` is empty, or `towers` names no task.
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
        super().__init__(schema, schema.schema.tasks, None)
        if not layers:
            raise ValueError("single-task training needs at least one layer")
        encoders = [encoder(schema) for _ in self.objectives]
        self.encoders = nn.ModuleList(encoders)
        self.bottoms = nn.ModuleList(MLP(own.out_features, layers, style) for own in encoders)
        self.build_heads(self.objectives, layers[-1], tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Give each head the output of its own layers."""
        return tuple(bottom(own(batch)) for own, bottom in zip(self.encoders, self.bottoms, strict=True))

    def shared(self) -> Shared:
        """Name nothing."""
        return Shared((), ())
