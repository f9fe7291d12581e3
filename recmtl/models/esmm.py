"""ESMM: conditional rates of a funnel learned from all rows through its joint rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.models.loss_options import check_untrained
from recmtl.schema import FittedSchema, Schema, StepRates


class ESMM(RankingModel):
    r"""Entire space multi-task model: conditional rates are learned from all rows, not from those that count alone.

    Ma, Zhao, Huang, Wang, Hu, Zhu and Gai, "Entire Space Multi-Task Model: An Effective Approach for Estimating
    Post-Click Conversion Rate", SIGIR 2018, equations 2 and 3. Of a funnel of two steps two towers on one encoder
    predict CTR and CVR; the losses are those of CTR and CTCVR over all rows, with

    $$
    p_{\text{CTCVR}} = p_{\text{CTR}} \cdot p_{\text{CVR}}
    $$

    Of a longer funnel there is a tower for the conditional rate of each step, and a loss of the joint rate of each, the
    product along its path. The model returns the logits of all. Use it if late steps are labelled on all rows and early
    ones are rare.

    Shape:
        - output: ``{task: [B]}``, logits of the conditional and joint rates of all steps: CTR, CVR and CTCVR

    Args:
        schema: The fitted schema; it must have a funnel, and no tasks other than its rates.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers.
        towers: Towers of your own by head, the conditional rate of a step, each a callable from D, the width of a view,
            to a module.
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
        self._rates = schema.schema.funnel_rates
        super().__init__(schema, [step.joint for step in self._rates], encoder)
        self.expansion = style.expansion(self.encoder.out_features)
        heads = [step.conditional for step in self._rates]
        self.build_heads(heads, self.encoder.out_features, tower_layers, style, towers)

    @classmethod
    def check_schema(cls, schema: Schema) -> None:
        """Check that there is a funnel and no other task, and that conditional rates have no options of a loss."""
        check_funnel(cls.__name__, schema)
        check_untrained(cls.__name__, schema.tasks, [step.joint for step in schema.funnel_rates])

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the encoder's output for each tower, with an ensemble that of each member."""
        return (self.expansion(self.encoder(batch)),) * len(self.heads)

    def outputs(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits with those of the joint rates added."""
        return logits | joint_logits(self._rates, logits)

    def shared(self) -> Shared:
        """Return the parameters of encoder and expansion; nothing else comes before the fork, so all are the last."""
        shared = Shared.of(self.encoder, self.expansion)
        return shared._replace(last=tuple(t.tensor for t in shared.tensors))


def check_funnel(model: str, schema: Schema) -> None:
    """Check that a schema has a funnel and no other tasks, which a model of that name needs.

    Raises:
        ValueError: It has not.
    """
    if not schema.funnel_rates:
        raise ValueError(
            f"{model} needs a schema with a `funnel`, the labels of its steps, got one without: write "
            "`recmtl.Funnel(click, conversion)`, `funnel` on a card, or `--funnel click conversion`"
        )
    for task in schema.tasks:
        if task.kind != "binary" and schema.funnel and task.label in schema.funnel.labels:
            raise ValueError(
                f"{model} predicts rates of the funnel's steps, whose labels are 0 or 1: the kind of task "
                f"{task.name!r}, with the label {task.label!r} of a step, must be binary, got {task.kind!r}"
            )
        if task not in schema.funnel_tasks:
            raise ValueError(f"{model} predicts only the tasks of the funnel, got a schema with task {task.name!r}")


def joint_logits(rates: Sequence[StepRates], logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the log-odds of the joint rate of each step, the product of the conditional ones along its path.

    Shape:
        - logits and output: ``{task: [B]}``, or ``[B, k]`` by member

    Args:
        rates: The rates of the steps, each behind the one before it.
        logits: The log-odds of their conditional rates.
    """
    by_label: dict[str, Tensor] = {}
    for step in rates:
        own = logits[step.conditional.name]
        by_label[step.label] = own if step.parent is None else product_logit(by_label[step.parent], own)
    return {step.joint.name: by_label[step.label] for step in rates}


def product_logit(a: Tensor, b: Tensor) -> Tensor:
    """Return the log-odds of σ(a)·σ(b), exact even if the probabilities underflow.

    1/(σ(a)σ(b)) − 1 = e^−a + e^−b + e^−(a+b), so the log-odds are −logsumexp(−a, −b, −a−b).
    """
    return -torch.logsumexp(torch.stack([-a, -b, -a - b]), dim=0)
