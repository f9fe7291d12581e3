"""Ranking losses: how well the rows of a group (a search, a session, a user) are ordered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from recmtl.balance.backward import masked

MOST_COMPARED = 128  # other rows of its group that a row is compared with, evenly spaced where there are more


@dataclass(frozen=True)
class RankedRows:
    """Labels and weights of rows, those of a group one after the other.

    Args:
        groups: The number of the group of each row, int ``[B]``.
        labels: The labels ``[B]``; any number in rows that do not count.
        weight: The weights ``[B]``, 0 in rows that do not count.
        largest: The rows of the largest group.
        graded: Whether labels are numbers that have an order alone; otherwise they are from 0 to 1, and a label y is a
            positive of weight y and a negative of weight 1 − y.
    """

    groups: Tensor
    labels: Tensor
    weight: Tensor
    largest: int
    graded: bool = False

    @cached_property
    def _first(self) -> Tensor:
        """Whether a row is the first of its group, bool ``[B]``."""
        return torch.cat([self.groups.new_ones(1, dtype=torch.bool), self.groups.diff() != 0])[: len(self.groups)]

    @cached_property
    def _number(self) -> Tensor:
        """The place of each row's group among those of the batch, int64 ``[B]``."""
        return self._first.long().cumsum(0) - 1

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum over its group for each row, ``[B]`` or ``[B, k]``."""
        return torch.zeros_like(values).index_add(0, self._number, values)[self._number]

    def highest(self, values: Tensor) -> Tensor:
        """Return the highest value in its group for each row, ``[B]`` or ``[B, k]``."""
        number = by_row(self._number, values).expand_as(values)
        return torch.full_like(values, -torch.inf).scatter_reduce(0, number, values, "amax").gather(0, number)

    @cached_property
    def group_weight(self) -> Tensor:
        """The weight of all rows of its group, for each row ``[B]``."""
        return self.sums(self.weight)

    @cached_property
    def others(self) -> tuple[Tensor, Tensor]:
        """The rows that each row is compared with, int64 ``[B, D]``, and which of these places are filled."""
        rows, ones = torch.arange(len(self.groups), device=self.groups.device), torch.ones_like(self._number)
        sizes = self.sums(ones)  # [B]
        starts = masked(rows, self._first).cummax(0).values  # [B]
        steps = torch.arange(min(max(1, self.largest - 1), MOST_COMPARED), device=rows.device)  # [D]
        most, compared = (sizes - 1)[:, None], len(steps)
        spaced = torch.where(most > compared, steps * most // compared, steps)  # [B, D]
        places = ((rows - starts + 1)[:, None] + spaced) % sizes[:, None]
        return starts[:, None] + places, steps < most

    @cached_property
    def pairs(self) -> Tensor:
        """The weight of each pair of a row and one of `others` that is below it, ``[B, D]``."""
        others, filled = self.others
        labels, weight = self.labels[:, None], (self.weight[:, None] * self.weight[others]) * filled
        below = self.labels[others]
        return weight * ((labels > below) if self.graded else labels * (1 - below))


def pairwise(scores: Tensor, rows: RankedRows) -> tuple[Tensor, Tensor]:
    r"""Return the logistic loss of pairs of rows of a group (Burges et al., "Learning to rank", ICML 2005, eq. 3).

    Pairs have the weight $p_{ij} = w_i y_i\, w_j (1 - y_j)$, or where labels are graded $w_i w_j$ if $y_i > y_j$. The
    loss of a group is a smooth 1 − AUC, and that of the batch their mean, weighted by the weight $W_g$ of their rows as
    `gauc` is, over the groups that have a pair:

    $$
    L = \frac{1}{\sum_g W_g} \sum_g W_g \frac{\sum_{i \ne j} p_{ij} \log(1 + e^{s_j - s_i})}{\sum_{i \ne j} p_{ij}}
    $$

    Each row is compared with at most 128 others of its group, so that time and memory are O(B · D) with D = min(rows of
    the largest group − 1, 128).

    Shape:
        - scores: ``[B]``, or ``[B, k]`` by member of an ensemble

    Returns:
        The part of each row in the numerator, shaped as the scores, and that in the denominator ``[B]``.
    """
    found = rows.sums(rows.pairs.sum(1))  # [B]
    share = masked(rows.group_weight, found > 0) / masked(found, found > 0, 1.0)
    others = rows.others[0]
    apart = scores[:, None] - scores.index_select(0, others.flatten()).view(
        *others.shape, *scores.shape[1:]
    )  # [B, D] or [B, D, k]
    of_rows = -(by_row(rows.pairs, apart) * F.logsigmoid(apart)).sum(1)  # [B] or [B, k]
    return by_row(share, of_rows) * of_rows, rows.weight * (found > 0)


def listwise(scores: Tensor, rows: RankedRows) -> tuple[Tensor, Tensor]:
    r"""Return the cross-entropy of the soft-max over a group (ListNet, Cao et al., ICML 2007, section 4.2).

    A row of weight w stands for w rows, and the labels over their sum, whether 0 and 1 or amounts, are the distribution
    that the soft-max is to have. The scores of an amount are logarithms of expected values, so that its soft-max is the
    expected share of each row. The loss of the batch is the mean over the groups with two different labels, weighted by
    the weight $W_g$ of their rows:

    $$
    L = \frac{1}{\sum_g W_g} \sum_g W_g \sum_i \frac{w_i y_i}{\sum_j w_j y_j}
        \Bigl(\log \sum_j w_j e^{s_j} - s_i\Bigr)
    $$

    Time and memory are O(B).

    Shape:
        - scores: ``[B]``, or ``[B, k]`` by member of an ensemble

    Returns:
        As of `pairwise`.
    """
    counting = rows.weight > 0
    high = rows.highest(masked(rows.labels, counting, -torch.inf))
    low = -rows.highest(masked(-rows.labels, counting, -torch.inf))
    mixed = high > low
    gains = masked(rows.weight * rows.labels, counting)  # [B]
    top = rows.highest(masked(scores.detach(), by_row(counting, scores).expand_as(scores), -torch.inf))
    top = masked(top, top > -torch.inf)
    above = masked(scores - top, by_row(counting, scores).expand_as(scores))
    sums = rows.sums(by_row(rows.weight, scores) * torch.exp(above))  # [B] or [B, k]
    logs = top + masked(sums, sums > 0, 1.0).log()
    share = masked(rows.group_weight * gains, mixed) / masked(rows.sums(gains), mixed, 1.0)
    return by_row(share, scores) * (logs - scores), rows.weight * mixed


def by_row(values: Tensor, like: Tensor) -> Tensor:
    """Return values with trailing dimensions of size 1, so that they broadcast over a tensor with as many as `like`."""
    return values.view(*values.shape, *(1,) * (like.dim() - values.dim()))


RankingLoss = Callable[[Tensor, RankedRows], tuple[Tensor, Tensor]]
RANKING_LOSSES: Mapping[str, RankingLoss] = {"pairwise": pairwise, "listwise": listwise}
