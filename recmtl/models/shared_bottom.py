"""SharedBottom: one MLP that all tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import MLP, LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.schema import FittedSchema


class SharedBottom(RankingModel):
    """One MLP that all tasks share, and a tower per task.

    Caruana, "Multitask Learning", Machine Learning 28, 1997. With x the encoded batch, every head reads the same view
    f(x). Use it as the baseline, and if the tasks are closely related.

    Shape:
        - output: ``{task: [B]}``, logits

    Args:
        schema: The fitted schema; its tasks are the heads and the objectives.
        layers: The widths of the shared layers.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers.
        towers: Towers of your own by task, each a callable from D, the width of a view, to a module.
        encoder: Builds the encoder.

    Raises:
        ValueError: `layers` is empty, or `towers` names no task.

    Example:
        >>> import pandas as pd, recmtl
        >>> tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy")]
        >>> schema = recmtl.Schema([recmtl.Categorical("item")], tasks)
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "click": [1, 0, 1], "buy": [1, 0, 0]})
        >>> model = SharedBottom(recmtl.prepare(schema, rows, holdout=0).schema, layers=[32, 16])
        >>> list(model.heads), model.view_features
        (['ctr', 'cvr'], 16)
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
            raise ValueError("`layers` must hold at least one layer, got none")
        self.bottom = MLP(self.encoder.out_features, layers, style)
        self.build_heads(self.objectives, self.bottom.out_features, tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the output of the bottom, once per head."""
        return (self.bottom(self.encoder(batch)),) * len(self.heads)

    def shared(self) -> Shared:
        """Return the parameters of encoder and bottom; the bottom's last weight comes last."""
        return Shared.of(self.encoder, self.bottom, last=self.bottom.last_weights)
