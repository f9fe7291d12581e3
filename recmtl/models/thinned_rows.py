"""From the logits of thinned training rows to those of all rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recmtl.schema import FittedSchema, Task


def all_rows_logits(
    schema: FittedSchema, objectives: Sequence[Task], logits: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the logits of all rows from those of a model that was trained on thinned rows.

    A row that is negative with probability 1 − c was kept with probability Z = c + r(1 − c), r the rate at which
    negative rows were kept. So a label whose positive rows were all kept has the probability p = q·Z, where q is its
    probability among kept rows. The task that predicts c itself has c = s·Z with Z = r / (1 − s(1 − r)), s its
    probability among kept rows (He et al. 2014, section 6.3). A task of which all rows were kept stays as it is.
    Where the objectives do not predict c, losses count a row by its sampling weight, and all logits stay.

    Shape:
        - logits and output: ``{task: [B]}``

    Args:
        schema: The fitted schema.
        objectives: The tasks whose losses were trained.
        logits: The logits of the model by task.
    """
    thinning, funnel = schema.thinning, schema.schema.funnel
    kept = thinning.kept_task(objectives, funnel) if thinning else None
    if thinning is None or kept is None:
        return dict(logits)
    tasks = {task.name: task for task in (*schema.schema.reported_tasks, *objectives)}
    corrected = {name for name in logits if name in tasks and thinning.positives_kept(tasks[name], funnel)}
    return {
        name: thinned_logit(logit, logits[kept.name], thinning.negative_rate) if name in corrected else logit
        for name, logit in logits.items()
    }


def thinned_logit(logit: Tensor, kept: Tensor, rate: float) -> Tensor:
    """Return the log-odds of q·Z, where Z = r / (1 − s(1 − r)).

    With ρ = 1/r − 1 it is 1/Z = 1 + (1 − s)ρ, and so 1/(qZ) − 1 = (1/q − 1)/Z + (1 − s)ρ: a sum of positive terms.

    Shape:
        - logit, kept and output: ``[B]``

    Args:
        logit: The log-odds of q.
        kept: The log-odds of s.
        rate: r, the rate at which negative rows were kept.
    """
    log_dropped = F.logsigmoid(-kept) + math.log(1 / rate - 1)
    return -torch.logsumexp(torch.stack([F.softplus(log_dropped) - logit, log_dropped]), dim=0)


def counts_sampling_weights(schema: FittedSchema, objectives: Sequence[Task]) -> bool:
    """Return whether losses count the rows of a thinned training file by the rows that they stand for."""
    thinning = schema.thinning
    return thinning is not None and thinning.kept_task(objectives, schema.schema.funnel) is None
