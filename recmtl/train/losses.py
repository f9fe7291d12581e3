"""The losses: from logits to one scalar per objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recmtl.data import Batch
from recmtl.schema import FittedSchema, Moments, Task

RowLoss = Callable[[Tensor, Tensor], Tensor]
"""From logits (of a regression: values) ``[B]`` and labels ``[B]`` to the loss of each row ``[B]``."""
FOCUS = 2.0  # the exponent of the focal loss


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the focal loss: cross-entropy times (1 − p)², p the label's probability (Lin et al., 2017, eq. 4).

    Shape:
        - inputs and output: ``[B]``
    """
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (1 - torch.exp(-entropy)) ** FOCUS * entropy


ROW_LOSSES: Mapping[str, RowLoss] = {
    "bce": lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels, reduction="none"),
    "focal": focal,
    "mse": lambda values, labels: F.mse_loss(values, labels, reduction="none"),
    "mae": lambda values, labels: F.l1_loss(values, labels, reduction="none"),
    "huber": lambda values, labels: F.huber_loss(values, labels, reduction="none"),
}
DEFAULT_LOSS = {"binary": "bce", "regression": "mse"}


class Losses:
    """The losses of a model's objectives.

    A task's loss is Σ w·ℓ / Σ w over the rows that have its label and meet its condition, times the task's weight. For
    a batch without such a row it is exactly 0, with a gradient of 0. If several processes share a batch, each computes
    its rows' part of the loss: the denominator is that of the whole batch.
    The loss of an ensemble is the mean of its members' losses.

    The loss of a regression is that of the standardized label: prediction and label are in the label's units, and ℓ
    takes both minus the mean, over the deviation, of the training rows' labels. So the losses of tasks are of one
    size, whatever the units of their labels.

    They take the logits of a model in training mode. On the rows of a thinned file that is the likelihood of these
    rows where the objectives predict which rows were kept, and the model then returns the logits of all rows in
    evaluation mode. Otherwise w is multiplied by the sampling weight of a row.

    Args:
        schema: The model's schema: the order of the label columns in a batch, the means and deviations of labels, and
            how the training file was thinned.
        objectives: The training objectives.

    Raises:
        ValueError: The rows of a batch are thinned, and those of the schema were not.
    """

    def __init__(self, schema: FittedSchema, objectives: Sequence[Task]) -> None:
        thinning = schema.thinning
        self._thinned = thinning is not None
        self._sampling = thinning is not None and thinning.kept_task(objectives, schema.schema.funnel) is None
        column = {name: i for i, name in enumerate(schema.schema.labels)}
        self._terms = [
            (t, column[t.label], column[t.given] if t.given else None, row_loss_of(t, schema.label_moments(t)))
            for t in objectives
        ]

    def __call__(self, logits: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return one scalar per objective, in their order, from logits ``[B]``, or ``[B, k]`` by member."""
        if batch.sampling_weight is not None and not self._thinned:
            raise ValueError("the rows of the batch are thinned: those of the model's schema are not")
        return {
            task.name: task.weight * self._mean(row_loss, logits[task.name], batch, label, given)
            for task, label, given, row_loss in self._terms
        }

    def _mean(self, row_loss: RowLoss, logits: Tensor, batch: Batch, label: int, given: int | None) -> Tensor:
        labels, weight = labels_and_weights(batch, label, given, logits.dtype, self._sampling)
        whole = weight
        if batch.share is not None:
            _, whole = labels_and_weights(batch.whole, label, given, logits.dtype, self._sampling)
        total = whole.sum()
        # Rows that do not count are masked on both sides, so that their NaNs do not reach the gradient.
        missing, zero = labels.isnan(), logits.new_zeros(())
        targets = torch.where(missing, zero, labels)  # [B]
        if logits.dim() == 1:
            losses = row_loss(torch.where(missing, zero, logits), targets)  # [B]
        else:
            losses = row_loss(torch.where(missing[:, None], zero, logits), targets[:, None].expand_as(logits)).mean(1)
        return (weight * losses).sum() / torch.where(total > 0, total, 1.0)


def row_loss_of(task: Task, moments: Moments) -> RowLoss:
    """Return the loss of each row of a task, of a regression on the label standardized by its mean and deviation."""
    row_loss, (mean, deviation) = ROW_LOSSES[task.loss or DEFAULT_LOSS[task.kind]], moments
    if task.kind == "binary":
        return row_loss
    return lambda values, labels: row_loss((values - mean) / deviation, (labels - mean) / deviation)


def labels_and_weights(
    batch: Batch, label: int, given: int | None, dtype: torch.dtype, sampling: bool = False
) -> tuple[Tensor, Tensor]:
    """Return a task's labels ``[B]``, NaN in rows that do not count for it, and the row weights, 0 in those.

    `sampling` multiplies the weights by the sampling weights.
    """
    labels = batch.labels[:, label].to(dtype)
    if given is not None:
        labels = torch.where(batch.labels[:, given] == 1, labels, torch.nan)
    valid = ~labels.isnan()
    weight = valid.to(dtype) if batch.weight is None else valid * batch.weight
    return labels, weight if not sampling or batch.sampling_weight is None else weight * batch.sampling_weight
