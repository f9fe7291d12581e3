"""AITM: the steps of a funnel, each of which attends to what the step before passes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import MLP, LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.models.esmm import check_funnel
from recmtl.models.loss_options import check_untrained
from recmtl.schema import FittedSchema, Schema


class AITM(RankingModel):
    r"""Adaptive information transfer multi-task model: each step of a funnel reads what the step before passes on.

    Xi, Chen, Yan, Zhang, Zhu, Zhuang and Chen, "Modeling the Sequential Dependence among Audience Multi-step
    Conversions with Multi-task Learning in Targeted Display Advertising", KDD 2021, equations 4 to 8. With x the
    encoded batch and q_t = f_t(x), a first step reads z_t = q_t, and each further one, with s the step before it

    $$
    z_t = \sum_{u \in \{p_t,\, q_t\}} a_u\, h_3(u), \qquad p_t = g_t(z_s), \qquad
    a_u \propto \exp\frac{\langle h_1(u), h_2(u) \rangle}{\sqrt{D}}
    $$

    It predicts the joint rate of each step. As a step implies the one before it, a model that gives it a larger
    probability is penalised outside balancing: `penalty_weight` times the mean over rows of Σ_t max(p_t − p_s, 0), with
    the probabilities p.

    Layers of a step are shared by it and all steps that follow it; those of a last step are its own. Use it if
    conversions follow clicks, and their labels stand in all rows.

    Shape:
        - output: ``{task: [B]}``, logits

    Args:
        schema: The fitted schema; it must have a funnel, and no tasks other than its rates. Conditional rates are not
            predicted: they follow from the joint ones.
        layers: The widths of the layers f_t of each step; the last is D.
        tower_layers: The hidden layers of the default towers.
        penalty_weight: The weight of the penalty; 0 for none.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers.
        towers: Towers of your own by task, each a callable from D, the width of a view, to a module.
        encoder: Builds the encoder.

    Raises:
        ValueError: The schema has no funnel, or another task; `layers` is empty, `penalty_weight` is negative, or
            `towers` names no joint rate.

    Example:
        >>> import pandas as pd, recmtl
        >>> tasks = [recmtl.Task("ctr", "click"), recmtl.Task("ctcvr", "buy")]
        >>> schema = recmtl.Schema([recmtl.Categorical("item")], tasks, funnel=recmtl.Funnel("click", "buy"))
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "click": [1, 0, 1], "buy": [1, 0, 0]})
        >>> model = AITM(recmtl.prepare(schema, rows, holdout=0).schema, layers=[16])
        >>> [task.name for task in model.objectives]
        ['ctr', 'ctcvr']
    """

    def __init__(
        self,
        schema: FittedSchema,
        layers: Sequence[int] = (256, 128),
        tower_layers: Sequence[int] = (64,),
        penalty_weight: float = 0.6,
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        if not layers:
            raise ValueError("`layers` must hold at least one layer, got none")
        if not 0 <= penalty_weight < math.inf:
            raise ValueError(f"`penalty_weight` must be at least 0, got {penalty_weight}")
        rates = schema.schema.funnel_rates
        tasks = [step.joint for step in rates]
        super().__init__(schema, tasks, encoder)
        self.penalty_weight = penalty_weight
        labels, width = [step.label for step in rates], layers[-1]
        self._before = {t: labels.index(step.parent) for t, step in enumerate(rates) if step.parent is not None}
        self.bottoms = nn.ModuleList(MLP(self.encoder.out_features, layers, style) for _ in rates)
        self.passed_on = nn.ModuleList(MLP(width, [width], style, expand=False) for _ in self._before)
        self.attention = nn.ModuleList(style.linear(width, width, stacked=3) for _ in self._before)
        self.build_heads(tasks, width, tower_layers, style, towers)

    @classmethod
    def check_schema(cls, schema: Schema) -> None:
        """Check that there is a funnel and no other task, and that conditional rates have no options of a loss."""
        check_funnel(cls.__name__, schema)
        check_untrained(cls.__name__, schema.tasks, [step.joint for step in schema.funnel_rates])

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what each step reads, in the order of the funnel."""
        x, views = self.encoder(batch), list[Tensor]()
        transfers = dict(zip(self._before, zip(self.passed_on, self.attention, strict=True), strict=True))
        for t, bottom in enumerate(self.bottoms):
            own = bottom(x)  # [B, D]
            views.append(attended(views[self._before[t]], own, *transfers[t]) if t in transfers else own)
        return tuple(views)

    def penalty(self, logits: Mapping[str, Tensor], batch: Batch) -> Tensor | None:
        """Return the mean over rows by which probabilities exceed those of the step before, times its weight."""
        if self.penalty_weight == 0:
            return None
        p = [torch.sigmoid(logits[task.name]) for task in self.objectives]  # [B] each, or [B, k] with an ensemble
        excess = torch.stack([(p[t] - p[s]).relu() for t, s in self._before.items()]).sum(0)
        every = torch.ones_like(batch.labels[:, 0], dtype=torch.bool)
        return self.penalty_weight * self.task_losses.mean(excess, batch, every)

    def shared(self) -> Shared:
        """Return the parameters of the encoder and of all steps that another one follows."""
        followed = sorted({*self._before.values()})
        bottoms = [self.bottoms[t] for t in followed]
        places = [list(self._before).index(t) for t in followed if t in self._before]
        transfers = [modules[place] for modules in (self.passed_on, self.attention) for place in places]
        last = [weight for bottom in bottoms if isinstance(bottom, MLP) for weight in bottom.last_weights]
        return Shared.of(self.encoder, *bottoms, *transfers, last=last)


def attended(before: Tensor, own: Tensor, passed_on: nn.Module, attention: nn.Module) -> Tensor:
    """Return what a step reads: its own vector, and that which the step before passes on, by their attention.

    Shape:
        - before, own and output: ``[B, D]``

    Args:
        before: What the step before reads.
        own: The step's own vector.
        passed_on: The layers g_t.
        attention: The maps h_1, h_2 and h_3, stacked: from D to 3 D.
    """
    both = torch.stack([passed_on(before), own])  # [2, B, D]
    key, query, value = attention(both.flatten(0, 1)).unflatten(0, both.shape[:2]).chunk(3, -1)
    weights = ((key * query).sum(-1) / math.sqrt(own.shape[1])).softmax(0)  # [2, B]
    view: Tensor = (weights[..., None] * value).sum(0)
    return view
