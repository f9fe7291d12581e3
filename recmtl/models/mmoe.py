"""MMOE: experts that all tasks share, mixed by a gate per task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import Experts, Gates, LayerStyle
from recmtl.layers.ensemble import by_member
from recmtl.layers.experts import check_experts, mixtures
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.schema import FittedSchema


class MMOE(RankingModel):
    r"""Multi-gate mixture of experts: all tasks share the experts, and a gate per task mixes them.

    Ma, Zhao, Yi, Chen, Hong and Chi, "Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts", KDD 2018, equation 6. With x the encoded batch and E experts f_e, head k reads the view

    $$
    f^k(x) = \sum_{e=1}^{E} g^k(x)_e\, f_e(x), \qquad g^k(x) = \operatorname{softmax}(W_{gk}\, x)
    $$

    Experts are shared and balanced; gates belong to their task. Use it if tasks are related only in part, and check
    `expert_usage`: gates can collapse onto one expert.

    Shape:
        - output: ``{task: [B]}``, logits

    Args:
        schema: The fitted schema; its tasks are the heads and the objectives.
        experts: The number of experts, E.
        layers: The widths of each expert's layers.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers; see `Gates` for theirs.
        towers: Towers of your own by task, each a callable from D, the width of a view, to a module.
        encoder: Builds the encoder.

    Raises:
        ValueError: `experts` is below 1, `layers` is empty, or `towers` names no task.

    Example:
        >>> import pandas as pd, recmtl
        >>> tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy")]
        >>> schema = recmtl.Schema([recmtl.Categorical("item")], tasks)
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "click": [1, 0, 1], "buy": [1, 0, 0]})
        >>> data = recmtl.prepare(schema, rows, holdout=0)
        >>> model = MMOE(data.schema, experts=3, layers=[32, 16])
        >>> {task: tuple(w.shape) for task, w in model.expert_usage(next(recmtl.Loader(data.train, 3).epoch())).items()}
        {'ctr': (3, 3), 'cvr': (3, 3)}
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
        check_experts(layers, experts=experts)
        self.experts = Experts(self.encoder.out_features, experts, layers, style)
        self.gates = Gates(self.encoder.out_features, len(self.objectives), experts, style)
        self.build_heads(self.objectives, self.experts.out_features, tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return each head's mixture of the experts."""
        x = self.encoder(batch)  # [B, W]
        return mixtures(self.gates(x), self.experts(x)).unbind(1)  # [B, H, E] · [B, E, D] -> H of [B, D]

    def expert_usage(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weights of each head's gate, ``{head: [B, E]}``."""
        gates = by_member(self.gates(self.encoder(batch)), self.ensemble).mean(1)  # [B·k, H, E] -> [B, H, E]
        return dict(zip(self.heads, gates.unbind(1), strict=True))  # H of [B, E]

    def shared(self) -> Shared:
        """Return the parameters of encoder and experts; the experts' last weights come last."""
        return Shared.of(self.encoder, self.experts, last=self.experts.last_weights)
