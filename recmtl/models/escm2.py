"""ESCM²: ESMM with a CVR loss that corrects for which rows were clicked."""

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
from recmtl.models.esmm import checked_funnel_tasks, product_logit
from recmtl.models.thinned_rows import all_rows_logits
from recmtl.schema import FittedSchema, Task

Estimator = Literal["ips", "dr"]
IMPUTATION = "imputation"  # the head that predicts the loss of the CVR tower


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

    Of a thinned file, too, p_CTR and the mean are those of all rows: each row counts for those that it stands for.

    Note:
        The doubly robust loss of a batch can be below 0, where clicked rows are easier to predict than the imputation
        expects. Balancers that take the logarithm of losses, `GLS` and `FAMO`, leave it out of such steps.

    Shape:
        - output: ``{task: [B]}``, logits of CTR, CVR and CTCVR; in training also those of the imputation

    Args:
        schema: The fitted schema; it must have a funnel, and no tasks other than CTR, CVR and CTCVR.
        estimator: ``ips``, inverse propensity scores, or ``dr``, doubly robust.
        max_weight: The largest weight of a clicked row.
        tower_layers: The hidden layers of the default towers.
        style: Normalisation, activation, dropout, initialisation and ensemble of all layers.
        towers: Towers of your own by head, CTR, CVR or ``imputation``, each a callable from D, the width of a view,
            to a module.
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
        tasks = checked_funnel_tasks("ESCM2", schema)
        super().__init__(schema, tasks, encoder)
        self.estimator, self.max_weight = estimator, max_weight
        ctr, cvr, ctcvr = tasks
        self._ctr, self._cvr, self._ctcvr = ctr.name, cvr.name, ctcvr.name
        self._click, self._conversion = (schema.schema.labels.index(task.label) for task in (ctr, ctcvr))
        self.expansion = style.expansion(self.encoder.out_features)
        imputation = [Task(IMPUTATION, cvr.label, cvr.given)] if estimator == "dr" else []
        self.build_heads((ctr, cvr, *imputation), self.encoder.out_features, tower_layers, style, towers)

    def trunk(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the encoder's output for each tower, with an ensemble that of each member."""
        return (self.expansion(self.encoder(batch)),) * len(self.heads)

    def outputs(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits with that of CTCVR added; in evaluation mode without those of the imputation."""
        found = logits | {self._ctcvr: product_logit(logits[self._ctr], logits[self._cvr])}
        return found if self.training else {name: found[name] for name in (self._ctr, self._cvr, self._ctcvr)}

    def losses(self, logits: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return the losses of CTR and CTCVR over all rows, and that of CVR by the estimator."""
        error, clicked = self.task_losses.of_rows(self._cvr, logits[self._cvr], batch)  # [B] or [B, k], bool [B]
        clicked = clicked if error.dim() == 1 else clicked[:, None]
        ctr = {self._ctr: logits[self._ctr].detach()}
        of_all = all_rows_logits(self.schema, self.objectives, ctr)[self._ctr]  # those of a thinned file are higher
        weight = clicked * torch.sigmoid(of_all).reciprocal().clamp(max=self.max_weight)
        of_cvr = weight * error
        if self.estimator == "dr":
            imputed = F.softplus(logits[IMPUTATION])  # a cross-entropy is at least 0
            of_cvr = imputed + weight * (error - imputed) + weight * (error.detach() - imputed).square()
        return super().losses(logits, batch) | self.task_losses.of_objective(
            self._cvr, of_cvr, batch, self._known, of_all_rows=True
        )

    def _known(self, batch: Batch) -> Tensor:
        """Return which rows have a label of the click and, if clicked, of the conversion, bool ``[B]``."""
        click, conversion = batch.labels[:, self._click], batch.labels[:, self._conversion]
        return ~click.isnan() & ~((click == 1) & conversion.isnan())

    def shared(self) -> Shared:
        """Return the parameters of encoder and expansion; nothing else comes before the fork, so all are the last."""
        shared = Shared.of(self.encoder, self.expansion)
        return shared._replace(last=tuple(t.tensor for t in shared.tensors))
