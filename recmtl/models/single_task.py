"""SingleTask: a separate network per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import MLP, LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.schema import FittedSchema


class SingleTask(RankingModel):
    """A separate encoder, MLP and tower per task: the baseline without sharing.

    Nothing is shared, so there is nothing to balance: train it with `Sum`. Use it to see whether sharing helps at all.

    Note:
        All tasks are trained at once. That equals a training per task, except for what depends on all of them: early
        stopping, the choice of the best weights and `clip_norm`.

    Shape:
        - output: ``{task: [B]}``, logits

    Args:
        schema: The fitted schema; its tasks are the heads and the objectives.
        layers: The widths of the layers below each tower.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers.
        towers: Towers of your own by task, each a callable from D, the width of a view, to a module.
        encoder: Builds the encoders.

    Raises:
        ValueError: `layers` is empty, or `towers` names no task.

    Example:
        >>> import pandas as pd, recmtl
        >>> tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy")]
        >>> schema = recmtl.Schema([recmtl.Categorical("item")], tasks)
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "click": [1, 0, 1], "buy": [1, 0, 0]})
        >>> SingleTask(recmtl.prepare(schema, rows, holdout=0).schema, layers=[8]).shared()
        Shared(tensors=(), last=())
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
            raise ValueError("`layers` must hold at least one layer, got none")
        encoders = [encoder(schema) for _ in self.objectives]
        self.encoders = nn.ModuleList(encoders)
        self.bottoms = nn.ModuleList(MLP(own.out_features, layers, style) for own in encoders)
        self.build_heads(self.objectives, layers[-1], tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the output of each head's own layers."""
        return tuple(bottom(own(batch)) for own, bottom in zip(self.encoders, self.bottoms, strict=True))

    def shared(self) -> Shared:
        """Return no tensors."""
        return Shared(())
