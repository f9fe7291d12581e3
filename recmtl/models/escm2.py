"""ESCM²: ESMM with losses of conditional rates that correct for which rows count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from recmtl.data import Batch
from recmtl.features import FeatureEncoder
from recmtl.layers import LayerStyle
from recmtl.models.base import EncoderFactory, RankingModel, Shared, Tower
from recmtl.models.esmm import check_funnel, joint_logits
from recmtl.models.thinned_rows import all_rows_logits
from recmtl.schema import FittedSchema, Schema, StepRates, Task

Estimator = Literal["ips", "dr"]
IMPUTATION = "imputation"  # the head that predicts the loss of the tower of a conditional rate


class ESCM2(RankingModel):
    r"""Entire space counterfactual multi-task model: the CVR loss of clicked rows stands for that of all rows.

    Wang, Chang, Liu, Huang, Chen, Yu, Li and Chu, "ESCM²: Entire Space Counterfactual Multi-Task Model for
    Post-Click Conversion Rate Estimation", SIGIR 2022, equations 9 to 13. Beside ESMM's losses of CTR and CTCVR stands
    one of CVR, a mean over all rows. With e the cross-entropy of the CVR tower, o = 1 in clicked rows, and
    w = min(1/p_CTR, `max_weight`), it is

    $$
    \mathcal{L}_{\text{ips}} = \overline{o\, w\, e}, \qquad
    \mathcal{L}_{\text{dr}} = \overline{\hat{e} + o\, w\, (e - \hat{e}) + o\, w\, (e - \hat{e})^2}
    $$

    where ê is the loss that a third tower, the imputation, predicts. The weights pass no gradient on, nor does e in the
    square, which trains the imputation alone: otherwise the CVR tower would learn what is easy to predict. Use it if
    clicked rows are not like all rows, and CVR is wanted for all. It corrects for what the features tell of a click:
    what makes users both click and buy, and stands in no feature, it cannot see.

    In a longer funnel the conditional rate of each step has such a loss, with an imputation of its own; the propensity
    is the joint rate of the step before.

    Of a thinned file, too, p_CTR and the mean are those of all rows: each row counts for those that it stands for.

    Note:
        The doubly robust loss of a batch can be below 0, where clicked rows are easier to predict than the imputation
        expects. Balancers that take the logarithm of losses, `GLS` and `FAMO`, leave it out of such steps.

    Shape:
        - output: ``{task: [B]}``, logits of the conditional and joint rates of all steps: CTR, CVR and CTCVR; in
          training also those of the imputations

    Args:
        schema: The fitted schema; it must have a funnel, and no tasks other than its rates.
        estimator: ``ips``, inverse propensity scores, or ``dr``, doubly robust.
        max_weight: The largest weight of a clicked row.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers.
        towers: Towers of your own by head, each a callable from D, the width of a view, to a module: of the conditional
            rates and their imputations, ``imputation`` of two steps, ``imputation_NAME`` of more.
        encoder: Builds the encoder.

    Raises:
        ValueError: The schema has no funnel, or another task; an option is out of its range; or `towers` names no
            head.

    Example:
        >>> import pandas as pd, recmtl
        >>> tasks = [recmtl.Task("ctr", "click"), recmtl.Task("cvr", "buy", given="click")]
        >>> schema = recmtl.Schema([recmtl.Categorical("item")], tasks, funnel=recmtl.Funnel("click", "buy"))
        >>> rows = pd.DataFrame({"item": ["a", "b", "a"], "click": [1, 0, 1], "buy": [1, 0, 0]})
        >>> model = ESCM2(recmtl.prepare(schema, rows, holdout=0).schema)
        >>> list(model.heads), [task.name for task in model.objectives]
        (['ctr', 'cvr', 'imputation'], ['ctr', 'cvr', 'ctcvr'])
    """

    def __init__(
        self,
        schema: FittedSchema,
        estimator: Estimator = "dr",
        max_weight: float = 15.0,
        tower_layers: Sequence[int] = (256, 128, 64),
        style: LayerStyle = LayerStyle(),
        towers: Mapping[str, Tower] | None = None,
        encoder: EncoderFactory = FeatureEncoder,
    ) -> None:
        if estimator not in get_args(Estimator):
            raise ValueError(f"`estimator` must be one of {get_args(Estimator)}, got {estimator!r}")
        if not max_weight >= 1:
            raise ValueError(f"`max_weight` must be at least 1, got {max_weight}")
        rates = self._rates = schema.schema.funnel_rates
        objectives = [task for step in rates for task in dict.fromkeys((step.conditional, step.joint))]
        super().__init__(schema, objectives, encoder)
        self.estimator, self.max_weight = estimator, max_weight
        self._later = [step for step in rates if step.parent is not None]
        names = [IMPUTATION if len(self._later) == 1 else f"{IMPUTATION}_{s.conditional.name}" for s in self._later]
        self._imputations = {s.label: name for s, name in zip(self._later, names, strict=True) if estimator == "dr"}
        self.expansion = style.expansion(self.encoder.out_features)
        heads = [step.conditional for step in rates]
        own = [(self._imputations[s.label], s.conditional) for s in self._later if self._imputations]
        heads += [Task(name, of.label, of.given, weight_column=of.weight_column) for name, of in own]
        self.build_heads(heads, self.encoder.out_features, tower_layers, style, towers)

    @classmethod
    def check_schema(cls, schema: Schema) -> None:
        """Check that there is a funnel and no other task, and that conditional rates have no ranking loss."""
        check_funnel(cls.__name__, schema)
        conditional = [step.conditional for step in schema.funnel_rates if step.parent is not None]
        for task in schema.tasks:
            if task in conditional and task.ranking_loss is not None:
                raise ValueError(
                    f"{cls.__name__} has a loss of its own for the conditional rate {task.name!r}: leave out its "
                    "`ranking_loss`"
                )

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the encoder's output for each tower, with an ensemble that of each member."""
        return (self.expansion(self.encoder(batch)),) * len(self.heads)

    def outputs(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits with those of the joint rates added; in evaluation mode without the imputations."""
        found = logits | joint_logits(self._rates, logits)
        imputations = () if self.training else self._imputations.values()
        return {name: logit for name, logit in found.items() if name not in imputations}

    def losses(self, logits: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the losses of the joint rates over all rows, and those of the conditional ones by the estimator."""
        found = super().losses(logits, batch)
        joint = {step.joint.name: logits[step.joint.name].detach() for step in self._rates}
        joint = all_rows_logits(self.schema, self.objectives, joint)  # those of a thinned file are higher
        before = {step.label: joint[step.joint.name] for step in self._rates}
        for step in self._later:
            of_rows = self._corrected(step, logits, before[step.parent or ""], batch)
            known = self._known(step, batch)
            found |= self.task_losses.of_objective(step.conditional.name, of_rows, batch, known, of_all_rows=True)
        return found

    def _corrected(self, step: StepRates, logits: Mapping[str, Tensor], before: Tensor, batch: Batch) -> Tensor:
        """Return the loss of a conditional rate in each row, ``[B]`` or ``[B, k]``.

        Args:
            step: The step.
            logits: Those of all heads.
            before: The log-odds of the joint rate of the step before, of all rows and without a gradient.
            batch: The rows.
        """
        name = step.conditional.name
        error, counting = self.task_losses.of_rows(name, logits[name], batch)  # [B] or [B, k], bool [B]
        counting = counting if error.dim() == 1 else counting[:, None]
        weight = counting * torch.sigmoid(before).reciprocal().clamp(max=self.max_weight)
        if self.estimator == "ips":
            return weight * error
        imputed = F.softplus(logits[self._imputations[step.label]])  # a cross-entropy is at least 0
        return imputed + weight * (error - imputed) + weight * (error.detach() - imputed).square()

    def _known(self, step: StepRates, batch: Batch) -> Tensor:
        """Return which rows have a label of the step before and, if that is 1, of the step, bool ``[B]``."""
        places = self.schema.schema.labels
        before, label = (batch.labels[:, places.index(name)] for name in (step.parent or "", step.label))
        return ~before.isnan() & ~((before == 1) & label.isnan())

    def shared(self) -> Shared:
        """Return the parameters of encoder and expansion; nothing else comes before the fork, so all are the last."""
        shared = Shared.of(self.encoder, self.expansion)
        return shared._replace(last=tuple(t.tensor for t in shared.tensors))
