"""OMoE: experts that all tasks share, mixed by one gate for all."""

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


class OMoE(RankingModel):
    r"""One-gate mixture of experts: all tasks share the experts and the gate that mixes them.

    Ma, Zhao, Yi, Chen, Hong and Chi, "Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts", KDD 2018, equation 5: the baseline of MMOE. With x the encoded batch and E experts f_e, every
    head reads the same view

    $$
    f(x) = \sum_{e=1}^{E} g(x)_e\, f_e(x), \qquad g(x) = \operatorname{softmax}(W_g\, x)
    $$

    Experts and gate are shared and balanced. Use it beside MMOE to see what the gates of the tasks are worth: what
    OMoE gains over `SharedBottom` is the mixture's, what MMOE gains over OMoE is that of the gates.

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
        >>> model = OMoE(data.schema, experts=3, layers=[32, 16])
        >>> usage = model.expert_usage(next(recmtl.Loader(data.train, 3).epoch()))
        >>> bool((usage["ctr"] == usage["cvr"]).all())
        True
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
        self.gate = Gates(self.encoder.out_features, 1, experts, style)
        self.build_heads(self.objectives, self.experts.out_features, tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the mixture of the experts, once per head."""
        x = self.encoder(batch)  # [B, W]
        mixture = mixtures(self.gate(x), self.experts(x)).squeeze(1)  # [B, 1, E] · [B, E, D] -> [B, D]
        return (mixture,) * len(self.heads)

    def expert_usage(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weights of the gate, the same for each head, ``{head: [B, E]}``."""
        gate = by_member(self.gate(self.encoder(batch)), self.ensemble).mean(1)  # [B·k, 1, E] -> [B, 1, E]
        return dict.fromkeys(self.heads, gate.squeeze(1))

    def shared(self) -> Shared:
        """Return the parameters of encoder, gate and experts; the experts' last weights come last."""
        return Shared.of(self.encoder, self.gate, self.experts, last=self.experts.last_weights)
