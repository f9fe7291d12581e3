"""The losses: from logits to one scalar per objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from recmtl.data import Batch
from recmtl.schema import Schema, Task

FOCUS = 2.0  # the exponent of the focal loss


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the focal loss: cross-entropy times (1 − p)², p the label's probability (Lin et al., 2017, eq. 4).

    Shape:
        - inputs and output: ``[B]``
    """
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return (1 - torch.exp(-entropy)) ** FOCUS * entropy


ROW_LOSSES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
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

    Args:
        schema: The schema, for the order of the label columns in a batch.
        objectives: The training objectives.
    """

    def __init__(self, schema: Schema, objectives: Sequence[Task]) -> None:
        column = {name: i for i, name in enumerate(schema.labels)}
        self._terms = [
            (t, column[t.label], column[t.given] if t.given else None, ROW_LOSSES[t.loss or DEFAULT_LOSS[t.kind]])
            for t in objectives
        ]

    def __call__(self, logits: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return one scalar per objective, in their order, from logits ``[B]``, or ``[B, k]`` by member."""
        return {
            task.name: task.weight * self._mean(row_loss, logits[task.name], batch, label, given)
            for task, label, given, row_loss in self._terms
        }

    @staticmethod
    def _mean(
        row_loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, batch: Batch, label: int, given: int | None
    ) -> Tensor:
        labels, weight = labels_and_weights(batch, label, given, logits.dtype)
        total = (
            weight.sum()
            if batch.share is None
            else labels_and_weights(batch.whole, label, given, logits.dtype)[1].sum()
        )
        # Rows that do not count are masked on both sides, so that their NaNs do not reach the gradient.
        valid = ~labels.isnan()
        if logits.dim() == 1:
            losses = row_loss(torch.where(valid, logits, 0.0), torch.where(valid, labels, 0.0))  # [B]
        else:
            targets = torch.where(valid, labels, 0.0)[:, None].expand_as(logits)  # [B, k]
            losses = row_loss(torch.where(valid[:, None], logits, 0.0), targets).mean(1)
        return (weight * losses).sum() / torch.where(total > 0, total, 1.0)


def labels_and_weights(batch: Batch, label: int, given: int | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a task's labels ``[B]``, NaN in rows that do not count for it, and the row weights, 0 in those."""
    labels = batch.labels[:, label].to(dtype)
    if given is not None:
        labels = torch.where(batch.labels[:, given] == 1, labels, torch.nan)
    valid = ~labels.isnan()
    return labels, valid.to(dtype) if batch.weight is None else valid * batch.weight
