"""DeLong's structural components: the contribution of each cluster of rows to an AUC, and its variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recmtl.evaluate.binary import SortedScores
from recmtl.evaluate.scores import Floats, Integers, Scores


@dataclass(frozen=True)
class Clusters:
    """The independent clusters of the rows of a binary task, and which of them have positives and negatives."""

    codes: Integers  # [rows]
    positive: npt.NDArray[np.bool_]  # [clusters]
    negative: npt.NDArray[np.bool_]  # [clusters]

    @classmethod
    def of(cls, scores: Scores) -> Clusters:
        """Return the clusters of rows: the groups, or the rows themselves without groups."""
        codes, count = scores.clusters
        positives = np.bincount(codes, scores.labels, minlength=count)
        return cls(codes, positives > 0, np.bincount(codes, minlength=count) > positives)

    @property
    def enough(self) -> bool:
        """Whether the variance can be estimated: at least two clusters have positives and two have negatives."""
        return bool(self.positive.sum() > 1 and self.negative.sum() > 1)


@dataclass(frozen=True)
class DeLongComponents:
    """An AUC, or a difference or mean of AUCs on the same rows, and the contribution of each cluster to it.

    The component of a positive is the weighted share of negatives below it (ties half) minus the AUC; that of a
    negative is the share of positives above it minus the AUC (DeLong et al. 1988). Here they are weighted by row,
    divided by the weight of all positives or negatives, and summed by cluster: the jackknife influences of a cluster's
    positives and negatives. Components of the same clusters add and subtract like the AUCs.
    """

    auc: float
    positive: Floats  # [clusters], the contributions of the positives
    negative: Floats  # [clusters]

    @classmethod
    def of(cls, scores: Scores, clusters: Clusters) -> DeLongComponents:
        """Compute the components with one sort, by midranks (Sun & Xu 2014)."""
        rows = SortedScores(scores)
        histogram = rows.histogram()
        auc, positives, negatives = histogram.auc(), histogram.positives, histogram.negatives
        below = (np.cumsum(negatives) - negatives / 2) / negatives.sum()  # [V]
        above = 1 - (np.cumsum(positives) - positives / 2) / positives.sum()  # [V]
        places = np.empty(len(scores), np.int64)
        places[rows.order] = np.repeat(np.arange(len(below)), rows.sizes())
        weight = np.ones(len(scores)) if scores.weight is None else scores.weight
        of_positives, of_negatives = weight * scores.labels, weight * (1 - scores.labels)
        count = len(clusters.positive)
        positive = np.bincount(clusters.codes, of_positives * (below[places] - auc), minlength=count)
        negative = np.bincount(clusters.codes, of_negatives * (above[places] - auc), minlength=count)
        return cls(auc, positive / of_positives.sum(), negative / of_negatives.sum())

    @classmethod
    def mean(cls, parts: Sequence[DeLongComponents]) -> DeLongComponents:
        """Average the components of several models on the same rows."""
        positive, negative = (
            np.mean([getattr(part, name) for part in parts], axis=0) for name in ("positive", "negative")
        )
        return cls(float(np.mean([part.auc for part in parts])), positive, negative)

    def __sub__(self, other: DeLongComponents) -> DeLongComponents:
        return DeLongComponents(self.auc - other.auc, self.positive - other.positive, self.negative - other.negative)

    def variance(self, clusters: Clusters) -> float:
        """Estimate the variance over draws of clusters (Obuchowski 1997; DeLong's if each row is a cluster).

        Weights are fixed: a row of weight 2 counts as one row seen twice, not as two independent rows.
        """
        return sum(self._parts(clusters))

    def degrees(self, clusters: Clusters) -> float:
        """Return Satterthwaite's degrees of freedom of `variance`, as in the test of Brunner & Munzel (2000).

        The variance is the sum of one over the clusters with positives and one over those with negatives; few positives
        make it uncertain.
        """
        positive, negative, _ = self._parts(clusters)
        among = positive**2 / (clusters.positive.sum() - 1) + negative**2 / (clusters.negative.sum() - 1)
        return float((positive + negative) ** 2 / among) if among else float("inf")

    def _parts(self, clusters: Clusters) -> tuple[float, float, float]:
        """Return the variances of the positives' and of the negatives' part, and twice their covariance."""
        products = self.positive @ self.positive, self.negative @ self.negative, 2 * (self.positive @ self.negative)
        counts = clusters.positive.sum(), clusters.negative.sum(), len(clusters.positive)
        positive, negative, both = (float(p * k / (k - 1)) for p, k in zip(products, counts, strict=True))
        return positive, negative, both
