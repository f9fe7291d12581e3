"""AITM: the steps of a funnel in order, each of which attends to what the step before passes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import MLP, LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.schema import FittedSchema, Task


class AITM(RankingModel):
    r"""Adaptive information transfer multi-task model: each step of a funnel reads what the step before passes on.

    Xi, Chen, Yan, Zhang, Zhu, Zhuang and Chen, "Modeling the Sequential Dependence among Audience Multi-step
    Conversions with Multi-task Learning in Targeted Display Advertising", KDD 2021, equations 4 to 8. With x the
    encoded batch and q_t = f_t(x), the first step reads z_1 = q_1, and each further one

    $$
    z_t = \sum_{u \in \{p_t,\, q_t\}} a_u\, h_3(u), \qquad p_t = g_t(z_{t-1}), \qquad
    a_u \propto \exp\frac{\langle h_1(u), h_2(u) \rangle}{\sqrt{D}}
    $$

    As a step implies those before it, a model that gives it a larger probability is penalised outside balancing:
    `penalty_weight` times the mean over rows of Σ_t max(p_t − p_{t−1}, 0), where p are the probabilities.

    Layers of a step are shared by it and all later ones; those of the last step are its own. Use it if conversions
    follow clicks, and their labels stand in all rows.

    Shape:
        - output: ``{task: [B]}``, logits

    Args:
        schema: The fitted schema.
        steps: The names of the tasks in the order of the funnel. By default CTR and CTCVR of the schema's funnel; its
            CVR is no step, as it follows from both.
        layers: The widths of the layers f_t of each step; the last is D.
        tower_layers: The hidden layers of the default towers.
        penalty_weight: The weight of the penalty; 0 for none.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers.
        towers: Towers of your own by task, each a callable from D, the width of a view, to a module.
        encoder: Builds the encoder.

    Raises:
        ValueError: The schema has no funnel and `steps` names none; a task is no step, is no binary task, or has a
            condition; `layers` is empty, `penalty_weight` is negative, or `towers` names no task.

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
        steps: Sequence[str] | None = None,
        layers: Sequence[int] = (256, 128),
        tower_layers: Sequence[int] = (64,),
        penalty_weight: float = 0.6,
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        tasks = funnel_steps(schema, steps)
        if not layers:
            raise ValueError("`layers` must hold at least one layer, got none")
        if not 0 <= penalty_weight < math.inf:
            raise ValueError(f"`penalty_weight` must be at least 0, got {penalty_weight}")
        super().__init__(schema, tasks, encoder)
        self.penalty_weight = penalty_weight
        width = layers[-1]
        self.bottoms = nn.ModuleList(MLP(self.encoder.out_features, layers, style) for _ in tasks)
        self.passed_on = nn.ModuleList(MLP(width, [width], style, expand=False) for _ in tasks[1:])
        self.attention = nn.ModuleList(style.linear(width, width, stacked=3) for _ in tasks[1:])
        self.build_heads(tasks, width, tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what each step reads, in the order of the funnel."""
        x = self.encoder(batch)
        first, *later = (bottom(x) for bottom in self.bottoms)  # [B, D] each
        views = [first]
        for own, passed_on, attention in zip(later, self.passed_on, self.attention, strict=True):
            both = torch.stack([passed_on(views[-1]), own])  # [2, B, D]
            key, query, value = attention(both.flatten(0, 1)).unflatten(0, both.shape[:2]).chunk(3, -1)
            weights = ((key * query).sum(-1) / math.sqrt(own.shape[1])).softmax(0)  # [2, B]
            views.append((weights[..., None] * value).sum(0))
        return tuple(views)

    def penalty(self, logits: Mapping[str, Tensor], batch: Batch) -> Tensor | None:
        """Return the mean over rows by which probabilities exceed those of the step before, times its weight."""
        if self.penalty_weight == 0:
            return None
        probabilities = torch.stack([torch.sigmoid(logits[task.name]) for task in self.objectives])  # [T, B]
        excess = (probabilities[1:] - probabilities[:-1]).relu().sum(0)  # [B], or [B, k] with an ensemble
        return self.penalty_weight * self.task_losses.mean(excess, batch, all_rows)

    def shared(self) -> Shared:
        """Return the parameters of the encoder and of all steps but the last, whose layers are its own."""
        bottoms = list(self.bottoms)[:-1]
        later = [*list(self.passed_on)[:-1], *list(self.attention)[:-1]]
        last = [weight for bottom in bottoms if isinstance(bottom, MLP) for weight in bottom.last_weights]
        return Shared.of(self.encoder, *bottoms, *later, last=last)


def all_rows(batch: Batch) -> Tensor:
    """Return that all rows of a batch count, bool ``[B]``."""
    return torch.ones_like(batch.labels[:, 0], dtype=torch.bool)


def funnel_steps(schema: FittedSchema, steps: Sequence[str] | None) -> tuple[Task, ...]:
    """Return the tasks that are the steps of a funnel, in their order."""
    names = list(steps or ())
    if steps is None:
        if not schema.schema.funnel:
            raise ValueError(
                "AITM needs a schema with a `funnel`, or `steps`, the names of the tasks in the order of the funnel"
            )
        ctr, _, ctcvr = schema.schema.funnel_tasks
        names = [ctr.name, ctcvr.name]
    known = {task.name: task for task in schema.schema.reported_tasks}
    wrong = [name for name in names if name not in known]
    funnel = [task.name for task in schema.schema.funnel_tasks]  # CTR, CVR and CTCVR, or none
    follows = funnel[1:2] if {*funnel[::2]} <= {*names} else []
    left = [task.name for task in schema.schema.tasks if task.name not in (*names, *follows)]
    if wrong or left or len(set(names)) != len(names) or len(names) < 2:
        possible = ", ".join(name for name in known if name not in funnel[1:2])  # CVR follows from the others
        given = f"got {steps!r}" if steps is not None else f"and by default they are {names}"
        raise ValueError(
            f"`steps` of AITM must be a list of two or more tasks, all of the schema ({possible}), each once, {given}"
        )
    for task in (known[name] for name in names):
        if task.given or task.kind != "binary":
            reason = f"has the condition {task.given!r}" if task.given else "is a regression"
            raise ValueError(f"a step of AITM must have a binary label in all rows, but task {task.name!r} {reason}")
    return tuple(known[name] for name in names)
