"""The losses: from logits to one scalar per objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.data import Batch
from recmtl.models.domains import checked_domain, domains_of
from recmtl.models.links import link_of
from recmtl.schema import DomainColumn, FittedSchema, Task

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


def row_loss(task: Task, schema: FittedSchema) -> RowLoss:
    """Return the loss of a row of a task, which takes logit and label in the units of the model and of the data."""
    loss, standardized, moments = ROW_LOSSES[task.loss_name], link_of(task).standardized, schema.label_moments(task)
    return lambda logits, labels: loss(*standardized(logits, labels, moments))


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

    Split by domain, a task has a loss per domain: Σ w·ℓ over the domain's rows / Σ w over the rows of all domains. They
    add up to the task's loss, and are named ``ctr@US``, that of rows of no training domain ``ctr@other``.

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
        self._schema = schema
        self._domain: DomainColumn | None = None  # if losses are split by domain
        self._terms = {
            t.name: TaskLoss(t, row_loss(t, schema), column[t.label], column[t.given] if t.given else None)
            for t in objectives
        }

    def __call__(self, logits: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return one scalar per objective, in their order, from logits ``[B]``, or ``[B, k]`` by member."""
        losses: dict[str, Tensor] = {}
        for name, term in self._terms.items():
            of_rows, counting = self.of_rows(name, logits[name], batch)
            weight = self._weights(batch, counting, of_rows.dtype, self._sampling)
            losses |= self._named(term, of_rows, batch, weight, term.counts, self._sampling)
        return losses

    @property
    def names(self) -> list[str]:
        """The names of the losses, in their order: the objectives, or ``OBJECTIVE@DOMAIN``."""
        return [name for objective in self._terms for name in self._names_of(objective)]

    @property
    def regressions(self) -> list[str]:
        """The names of the losses of regressions."""
        return [
            name
            for term in self._terms.values()
            if link_of(term.task).squares
            for name in self._names_of(term.task.name)
        ]

    def split_by_domain(self, split: bool) -> None:
        """Split the loss of each objective by the schema's domain, or do so no longer.

        Raises:
            ValueError: The schema has no domain, or one of too many categories.
        """
        self._domain = checked_domain("`balance_domains`", self._schema) if split else None

    def by_objective(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return losses by objective, the sums over their domains; others, such as ``penalty``, as they are."""
        if self._domain is None:
            return dict(losses)
        objectives = {name: objective for objective in self._terms for name in self._names_of(objective)}
        found: dict[str, float] = {}
        for name, loss in losses.items():
            objective = objectives.get(name, name)
            found[objective] = found.get(objective, 0.0) + loss
        return found

    def mean(self, losses: Tensor, batch: Batch, counts: Callable[[Batch], Tensor]) -> Tensor:
        """Return Σ w·ℓ / Σ w over the rows that count, a scalar; exactly 0 if none does.

        Args:
            losses: The loss of each row, ``[B]``, or ``[B, k]`` by member; 0 in rows that do not count.
            batch: The rows.
            counts: Returns which rows of a batch count, bool ``[B]``.

        Raises:
            ValueError: The rows of the batch are thinned, and those of the schema were not.
        """
        weight = self._weights(batch, counts(batch), losses.dtype, self._sampling)
        return self._weighted(losses, batch, weight, counts, self._sampling)

    def of_objective(
        self,
        objective: str,
        losses: Tensor,
        batch: Batch,
        counts: Callable[[Batch], Tensor],
        of_all_rows: bool = False,
    ) -> dict[str, Tensor]:
        """Return the loss of an objective by name, or those of its domains, times the task's weight; else as `mean`.

        Args:
            objective: The name of the objective.
            losses: As in `mean`.
            batch: The rows.
            counts: As in `mean`.
            of_all_rows: Whether the mean is that of all rows, also where those of the batch are thinned and the logits
                are theirs: each row then counts for all that it stands for.
        """
        sampling = of_all_rows or self._sampling
        weight = self._weights(batch, counts(batch), losses.dtype, sampling)
        return self._named(self._terms[objective], losses, batch, weight, counts, sampling)

    def of_rows(self, objective: str, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of an objective in each row, and which rows count for it.

        Shape:
            - logits and losses: ``[B]``, or ``[B, k]`` by member; in rows that do not count a loss is that of zeros
            - counting rows: bool ``[B]``
        """
        term = self._terms[objective]
        labels = term.labels(batch, logits.dtype)  # [B]
        # Rows that do not count are masked on both sides, so that their NaNs do not reach the gradient.
        counting = ~labels.isnan()
        targets = masked(labels, counting)  # [B]
        if logits.dim() == 1:
            return term(masked(logits, counting), targets), counting  # [B]
        return term(masked(logits, counting[:, None]), targets[:, None].expand_as(logits)), counting

    def _names_of(self, objective: str) -> list[str]:
        return [objective] if self._domain is None else [f"{objective}@{domain}" for domain in self._domain.names]

    def _named(
        self,
        term: TaskLoss,
        losses: Tensor,
        batch: Batch,
        weight: Tensor,
        counts: Callable[[Batch], Tensor],
        sampling: bool,
    ) -> dict[str, Tensor]:
        found = self._weighted(losses, batch, weight, counts, sampling, self._domain)
        found = found if term.task.weight == 1 else term.task.weight * found
        return dict(zip(self._names_of(term.task.name), found.unbind() if found.dim() else [found], strict=True))

    def _weights(self, batch: Batch, counting: Tensor, dtype: torch.dtype, sampling: bool) -> Tensor:
        """Return the weight of each row ``[B]``, 0 in those that do not count; times its sampling weight, or not."""
        if batch.sampling_weight is not None and not self._thinned:
            raise ValueError("the rows of the batch are thinned: those of the model's schema are not")
        weight = counting.to(dtype) if batch.weight is None else counting * batch.weight
        return weight * batch.sampling_weight if sampling and batch.sampling_weight is not None else weight

    def _weighted(
        self,
        losses: Tensor,
        batch: Batch,
        weight: Tensor,
        counts: Callable[[Batch], Tensor],
        sampling: bool,
        domain: DomainColumn | None = None,
    ) -> Tensor:
        """Return the weighted mean of the losses, a scalar, or the part of each domain in it, ``[D + 1]``."""
        losses = losses if losses.dim() == 1 else losses.mean(1)  # [B]
        whole = weight
        if batch.share is not None:
            whole = self._weights(batch.whole, counts(batch.whole), losses.dtype, sampling)
        total = whole.sum()
        weighted = weight * losses
        if domain is not None:
            places = torch.arange(len(domain.names), device=losses.device)
            weighted = masked(weighted[:, None], domains_of(batch, domain)[:, None] == places)  # [B, D + 1]
        return weighted.sum(0) / masked(total, total > 0, 1.0)


@dataclass(frozen=True)
class TaskLoss:
    """The loss of each row of a task, and where its labels stand in a batch.

    Args:
        task: The task.
        row_loss: The loss of a row, from its logit and label.
        label: The column of its label.
        given: That of its condition, if it has one.
    """

    task: Task
    row_loss: RowLoss
    label: int
    given: int | None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each row, ``[B]`` or ``[B, k]``, from logits and labels of that shape."""
        return self.row_loss(logits, labels)

    def counts(self, batch: Batch) -> Tensor:
        """Return which rows count for the task, bool ``[B]``."""
        return ~self.labels(batch, batch.labels.dtype).isnan()

    def labels(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        """Return the labels ``[B]``, NaN in rows that do not count for the task."""
        labels = batch.labels[:, self.label].to(dtype)
        return labels if self.given is None else masked(labels, batch.labels[:, self.given] == 1, torch.nan)
