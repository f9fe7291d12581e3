"""What each cluster of rows contributes to an AUC: the structural components behind its variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.binary import SortedScores
from recmtl.evaluate.scores import Floats, Integers, Scores


@dataclass(frozen=True)
class Clusters:
    """The rows of a binary task by the clusters that are independent of each other.

    Shape:
        - codes: ``[rows]``
        - positive, negative: ``[clusters]``

    Args:
        codes: The cluster of each row.
        positive: Whether a cluster holds positives.
        negative: Whether it holds negatives.
    """

    codes: Integers
    positive: npt.NDArray[np.bool_]
    negative: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, scores: Scores) -> Clusters:
        """Find the clusters of rows: groups, or the rows themselves."""
        codes, count = scores.clusters()
        positives = np.bincount(codes, scores.labels, minlength=count)
        return cls(codes, positives > 0, np.bincount(codes, minlength=count) > positives)

    @property
    def enough(self) -> bool:
        """Whether a variance can be estimated: two clusters with positives and two with negatives."""
        return bool(self.positive.sum() > 1 and self.negative.sum() > 1)


@dataclass(frozen=True)
class DeLongComponents:
    """An AUC, or a difference or mean of AUCs of the same rows, and what each cluster contributes to it.

    A positive's component is the weighted share of negatives below it, ties half, less the AUC; a negative's, the share
    of positives above it less the AUC (DeLong et al. 1988). Here they are weighted by their rows, divided by the weight
    of all positives or negatives, and summed by cluster: they are the jackknife's influences of a cluster's positives
    and of its negatives. Components of the same clusters add up and subtract like the AUCs.

    Shape:
        - positive, negative: ``[clusters]``

    Args:
        auc: The AUC, or the difference or mean.
        positive: What the positives of each cluster contribute.
        negative: What its negatives contribute.
    """

    auc: float
    positive: Floats
    negative: Floats

    @classmethod
    def of(cls, scores: Scores, clusters: Clusters) -> DeLongComponents:
        """Find the components with one sort, by midranks (Sun & Xu 2014)."""
        rows = SortedScores(scores)
        ranked = rows.ranked()
        auc = ranked.auc()
        below = (np.cumsum(ranked.negatives) - ranked.negatives / 2) / ranked.negatives.sum()  # [V]
        above = 1 - (np.cumsum(ranked.positives) - ranked.positives / 2) / ranked.positives.sum()  # [V]
        places = np.empty(len(scores), np.int64)
        places[rows.order] = np.repeat(np.arange(len(below)), rows.sizes())
        weight = np.ones(len(scores)) if scores.weight is None else scores.weight
        heavy, light = weight * scores.labels, weight * (1 - scores.labels)  # of the positives, of the negatives
        count = len(clusters.positive)
        positive = np.bincount(clusters.codes, heavy * (below[places] - auc), minlength=count)
        negative = np.bincount(clusters.codes, light * (above[places] - auc), minlength=count)
        return cls(auc, positive / heavy.sum(), negative / light.sum())

    def __add__(self, other: DeLongComponents) -> DeLongComponents:
        return DeLongComponents(self.auc + other.auc, self.positive + other.positive, self.negative + other.negative)

    def __sub__(self, other: DeLongComponents) -> DeLongComponents:
        return self + -1 * other

    def __rmul__(self, factor: float) -> DeLongComponents:
        return DeLongComponents(factor * self.auc, factor * self.positive, factor * self.negative)

    def variance(self, clusters: Clusters) -> float:
        """Estimate the variance over draws of the clusters (Obuchowski 1997; where each row is one, DeLong's).

        Weights are taken as fixed: a row of weight 2 is as one that came twice, not as two independent ones.
        """
        return sum(self._parts(clusters))

    def degrees(self, clusters: Clusters) -> float:
        """Give the degrees of freedom of `variance` by Satterthwaite, as the test of Brunner & Munzel (2000) does.

        The variance is a sum of one over the clusters with positives and one over those with negatives. With few
        positives it is as uncertain as a variance of so few.
        """
        positive, negative, _ = self._parts(clusters)
        among = positive**2 / (clusters.positive.sum() - 1) + negative**2 / (clusters.negative.sum() - 1)
        return float((positive + negative) ** 2 / among) if among else float("inf")

    def _parts(self, clusters: Clusters) -> tuple[float, float, float]:
        """The variance of the positives' part, that of the negatives', and twice their covariance."""
        k = len(clusters.positive)
        both = 2 * float(self.positive @ self.negative) * _unbiased(k)
        return (
            float(self.positive @ self.positive) * _unbiased(int(clusters.positive.sum())),
            float(self.negative @ self.negative) * _unbiased(int(clusters.negative.sum())),
            both,
        )


def _unbiased(count: int) -> float:
    return count / (count - 1)


def mean(parts: Sequence[DeLongComponents]) -> DeLongComponents:
    """Average the components of several models on the same rows."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return (1 / len(parts)) * total
