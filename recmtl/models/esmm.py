"""ESMM: conversion rates learned from all rows through the probability of click and conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.schema import FittedSchema, Task


class ESMM(RankingModel):
    r"""Entire space multi-task model: the conversion rate is learned from all rows, not from clicked rows alone.

    Ma, Zhao, Huang, Wang, Hu, Zhu and Gai, "Entire Space Multi-Task Model: An Effective Approach for Estimating
    Post-Click Conversion Rate", SIGIR 2018, equations 2 and 3. Two towers on one encoder predict CTR and CVR; the
    losses are those of CTR and CTCVR over all rows, with

    $$
    p_{\text{CTCVR}} = p_{\text{CTR}} \cdot p_{\text{CVR}}
    $$

    The model returns the logits of all three. Use it if conversions are labelled on all rows and clicks are rare.

    Shape:
        - output: ``{task: [B]}``, logits of CTR, CVR and CTCVR

    Args:
        schema: The fitted schema; it must have a funnel, and no tasks other than CTR, CVR and CTCVR.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers.
        towers: Towers of your own by head, CTR or CVR, each a callable from D, the width of a view, to a module.
        encoder: Builds the encoder.

    Raises:
        ValueError: The schema has no funnel, or another task; or `towers` names no head.

    Example:
        >>> import pandas as pd, recmtl
        >>> tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy", given="click")]
        >>> schema = recmtl.Schema([recmtl.Categorical("item")], tasks, funnel=recmtl.Funnel("click", "buy"))
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "click": [1, 0, 1], "buy": [1, 0, 0]})
        >>> model = ESMM(recmtl.prepare(schema, rows, holdout=0).schema)
        >>> list(model.heads), [task.name for task in model.objectives]
        (['ctr', 'cvr'], ['ctr', 'ctcvr'])
    """

    def __init__(
        self,
        schema: FittedSchema,
        tower_layers: Sequence[int] = (256, 128, 64),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        ctr, cvr, ctcvr = checked_funnel_tasks("ESMM", schema)
        super().__init__(schema, (ctr, ctcvr), encoder)
        self._ctr, self._cvr, self._ctcvr = ctr.name, cvr.name, ctcvr.name
        self.expansion = style.expansion(self.encoder.out_features)
        self.build_heads((ctr, cvr), self.encoder.out_features, tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the encoder's output for the CTR and the CVR tower, with an ensemble that of each member."""
        return (self.expansion(self.encoder(batch)),) * 2

    def outputs(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits with that of CTCVR added."""
        return logits | {self._ctcvr: product_logit(logits[self._ctr], logits[self._cvr])}

    def shared(self) -> Shared:
        """Return the parameters of encoder and expansion; nothing else comes before the fork, so all are the last."""
        shared = Shared.of(self.encoder, self.expansion)
        return shared._replace(last=tuple(t.tensor for t in shared.tensors))


def checked_funnel_tasks(model: str, schema: FittedSchema) -> tuple[Task, ...]:
    """Return CTR, CVR and CTCVR of a schema that has a funnel and no other tasks, for a model of that name."""
    tasks = schema.schema.funnel_tasks
    if not tasks:
        raise ValueError(
            f"{model} needs a schema with a `funnel`, the labels of click and conversion, got one without: "
            "write `recmtl.Funnel(click, conversion)`, or `funnel` on a card"
        )
    for task in schema.schema.tasks:
        if task not in tasks:
            raise ValueError(f"{model} predicts only the tasks of the funnel, got a schema with task {task.name!r}")
    return tasks


def product_logit(a: Tensor, b: Tensor) -> Tensor:
    """Return the log-odds of σ(a)·σ(b), exact even if the probabilities underflow.

    1/(σ(a)σ(b)) − 1 = e^−a + e^−b + e^−(a+b), so the log-odds are −logsumexp(−a, −b, −a−b).
    """
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)
