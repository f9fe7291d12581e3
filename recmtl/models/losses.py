"""The losses: from logits to one scalar per objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.balance.backward import masked
from recmtl.data import Batch
from recmtl.layers.ensemble import by_member
from recmtl.models.domains import checked_domain, domains_of
from recmtl.models.links import link_of
from recmtl.models.ranking_losses import RANKING_LOSSES, RankedRows, by_row
from recmtl.models.row_losses import RowLoss, row_loss
from recmtl.schema import DomainColumn, FittedSchema, Task
from recmtl.schema.task_kinds import TASK_KINDS


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

    A weight w is that of the row times that of the task's own column of weights. A task with a `ranking_loss` adds it,
    times its `ranking_weight`, to its loss: a mean over the groups of the whole batch in which rows can be compared.

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
        self._schema = schema
        self._domain: DomainColumn | None = None  # if losses are split by domain
        rates = {t.name: (schema.unthinned_rate(t) if self._sampling else schema.rate(t)).mean for t in objectives}
        self._terms = {t.name: TaskLoss.of(t, schema, row_loss(t, schema, rates[t.name])) for t in objectives}

    def __call__(self, logits: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Return one scalar per objective, in their order, from logits ``[B]``, or ``[B, k]`` by member."""
        means: dict[str, WeightedMean] = {}
        ranked: dict[str, WeightedMean] = {}
        for name, term in self._terms.items():
            means[name] = self._weighted(*self.of_rows(name, logits[name], batch), batch, self._sampling, term)
            if term.task.ranking_loss is not None:
                ranked[name] = self._ranked(term, logits[name], batch)
        found = divided([*means.values(), *ranked.values()], batch, self._domain)
        losses = dict(zip(means, found, strict=False))
        for name, loss in zip(ranked, found[len(means) :], strict=True):
            losses[name] = losses[name] + self._terms[name].task.ranking_weight * loss
        named = (self._named(self._terms[name], loss) for name, loss in losses.items())
        return {name: loss for own in named for name, loss in own.items()}

    @property
    def grouped(self) -> bool:
        """Whether a loss compares rows of a group, so that batches must be cut between groups."""
        return any(term.task.ranking_loss is not None for term in self._terms.values())

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

    def mean(self, losses: Tensor, batch: Batch, counting: Tensor) -> Tensor:
        """Return Σ w·ℓ / Σ w over the rows that count, a scalar; exactly 0 if none does.

        Args:
            losses: The loss of each row, ``[B]``, or ``[B, k]`` by member; 0 in rows that do not count.
            batch: The rows.
            counting: Which rows count, bool ``[B]``.

        Raises:
            ValueError: The rows of the batch are thinned, and those of the schema were not.
        """
        return divided([self._weighted(losses, counting, batch, self._sampling)], batch)[0]

    def of_objective(
        self, objective: str, losses: Tensor, batch: Batch, counting: Tensor, of_all_rows: bool = False
    ) -> dict[str, Tensor]:
        """Return the loss of an objective by name, or those of its domains, times the task's weight; else as `mean`.

        Args:
            objective: The name of the objective.
            losses: As in `mean`.
            batch: The rows.
            counting: As in `mean`.
            of_all_rows: Whether the mean is that of all rows, also where those of the batch are thinned and the logits
                are theirs: each row then counts for all that it stands for.

        Raises:
            ValueError: The task has a ranking loss; or as `mean`.
        """
        term = self._terms[objective]
        if term.task.ranking_loss is not None:
            raise ValueError(f"the model has a loss of its own for task {objective!r}: leave out its `ranking_loss`")
        mean = self._weighted(losses, counting, batch, of_all_rows or self._sampling, term)
        return self._named(term, divided([mean], batch, self._domain)[0])

    def of_rows(self, objective: str, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss of an objective in each row, and which rows count for it.

        Shape:
            - logits and losses: ``[B]``, or ``[B, k]`` by member; in rows that do not count a loss is that of zeros.
              Logits of a task with C outputs: ``[B, C]`` or ``[B, k, C]``
            - counting rows: bool ``[B]``
        """
        term = self._terms[objective]
        labels = term.labels(batch, logits.dtype)  # [B]
        # Rows that do not count are masked on both sides, so that their NaNs do not reach the gradient.
        counting = ~labels.isnan()
        targets = masked(labels, counting)  # [B]
        wide = int(term.outputs > 1)  # logits of a row: the last dimension
        logits = masked(logits, counting.view(-1, *[1] * (logits.dim() - 1)))
        if logits.dim() == 1 + wide:
            return term(logits, targets), counting  # [B]
        members = logits.shape[1]
        if wide:  # [B·k, C] and [B·k]
            return by_member(term(logits.flatten(0, 1), targets.repeat_interleave(members)), members), counting
        return term(logits, targets[:, None].expand_as(logits)), counting

    def _names_of(self, objective: str) -> list[str]:
        return [objective] if self._domain is None else [f"{objective}@{domain}" for domain in self._domain.names]

    def _named(self, term: TaskLoss, found: Tensor) -> dict[str, Tensor]:
        """Return a loss, or its parts by domain ``[D + 1]``, by name and times the task's weight."""
        found = found if term.task.weight == 1 else term.task.weight * found
        return dict(zip(self._names_of(term.task.name), found.unbind() if found.dim() else [found], strict=True))

    def _weights(
        self, batch: Batch, counting: Tensor, dtype: torch.dtype, sampling: bool, term: TaskLoss | None
    ) -> Tensor:
        """Return the weight of each row ``[B]``, 0 in those that do not count; times its sampling weight, or not."""
        if batch.sampling_weight is not None and not self._thinned:
            raise ValueError("the rows of the batch are thinned: those of the model's schema are not")
        weight = counting.to(dtype) if batch.weight is None else counting * batch.weight.to(dtype)
        if term is not None and term.weight is not None and batch.task_weights is not None:
            weight = weight * batch.task_weights[:, term.weight]
        return weight * batch.sampling_weight if sampling and batch.sampling_weight is not None else weight

    def _weighted(
        self, losses: Tensor, counting: Tensor, batch: Batch, sampling: bool, term: TaskLoss | None = None
    ) -> WeightedMean:
        weight = self._weights(batch, counting, losses.dtype, sampling, term)
        return WeightedMean(weight * (losses if losses.dim() == 1 else losses.mean(1)), weight)

    def _ranked(self, term: TaskLoss, logits: Tensor, batch: Batch) -> WeightedMean:
        """Return the ranking loss of a task, a mean over the groups of the whole batch."""
        assert term.task.ranking_loss is not None
        counted_logits = masked(logits, by_row(term.counts(batch), logits))
        scores = link_of(term.task).ranking_scores(term.task, counted_logits, self._schema)  # [B] or [B, k]
        ranked = self._ranked_rows(term, batch, logits.dtype)
        of_rows, counted = RANKING_LOSSES[term.task.ranking_loss](scores, ranked)
        return WeightedMean(of_rows if of_rows.dim() == 1 else of_rows.mean(1), counted)

    def _ranked_rows(self, term: TaskLoss, batch: Batch, dtype: torch.dtype) -> RankedRows:
        """Return the labels and weights of the rows of a batch by group."""
        if batch.groups is None:
            raise ValueError(
                f"the ranking loss of task {term.task.name!r} needs batches that are cut between groups: give "
                "`grouped=True` to the `Loader`"
            )
        labels = term.labels(batch, dtype)
        counting = ~labels.isnan()
        weight = self._weights(batch, counting, dtype, self._sampling, term)
        graded = TASK_KINDS[term.task.kind].high > 1
        return RankedRows(batch.groups, masked(labels, counting), weight, batch.largest_group, graded)


class WeightedMean(NamedTuple):
    """A mean over the rows of a batch, before it is divided."""

    parts: Tensor  # what each row adds to the numerator [B]
    counted: Tensor  # and to the denominator [B]


def divided(means: Sequence[WeightedMean], batch: Batch, domain: DomainColumn | None = None) -> list[Tensor]:
    """Return means as scalars, or the part of each domain in each of them ``[D + 1]``; exactly 0 if nothing counts.

    Denominators are those of the whole batch: several processes that share it add them up in one message.

    Args:
        means: What the rows add to numerators and denominators.
        batch: The rows.
        domain: The domain of the rows; ``None`` adds all rows up.
    """
    totals: Sequence[Tensor] = [mean.counted.sum() for mean in means]
    totals = batch.share.processes.sum(*totals) if batch.share is not None else totals
    found = []
    for (parts, _), total in zip(means, totals, strict=True):
        if domain is not None:
            places = torch.arange(len(domain.names), device=parts.device)
            parts = masked(parts[:, None], domains_of(batch, domain)[:, None] == places)  # [B, D + 1]
        found.append(parts.sum(0) / masked(total, total > 0, 1.0))
    return found


@dataclass(frozen=True)
class TaskLoss:
    """The loss of each row of a task, and where its labels stand in a batch.

    Args:
        task: The task.
        row_loss: The loss of a row, from its logit and label.
        label: The column of its label.
        given: That of its condition, if it has one.
        weight: The column of its rows' own weights, if it has any.
        outputs: How many logits a row has.
    """

    task: Task
    row_loss: RowLoss
    label: int
    given: int | None
    weight: int | None
    outputs: int = 1

    @classmethod
    def of(cls, task: Task, schema: FittedSchema, row_loss: RowLoss) -> TaskLoss:
        """Return the loss of a task, with the places of its columns in a batch."""
        labels, weights = schema.schema.labels.index, schema.schema.task_weights.index
        given = labels(task.given) if task.given else None
        own = weights(task.weight_column) if task.weight_column else None
        return cls(task, row_loss, labels(task.label), given, own, task.outputs)

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
