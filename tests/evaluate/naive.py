"""Naive float64 versions of the metrics and their variances, from the definitions: O(rows²)."""

import itertools

import numpy as np

from recmtl.evaluate import Scores
from recmtl.schema import Task

BINARY = Task("t", "t")


def kernel(scores: Scores) -> np.ndarray:
    """For each pair of a positive and a negative: 1 in the right order, 1/2 tied, 0 wrong."""
    difference = scores.predictions[scores.labels == 1][:, None] - scores.predictions[scores.labels == 0]
    return (difference > 0) + 0.5 * (difference == 0)


def weights(scores: Scores) -> np.ndarray:
    return np.ones(len(scores)) if scores.weight is None else scores.weight


def auc(scores: Scores) -> float:
    w = weights(scores)
    pairs = w[scores.labels == 1][:, None] * w[scores.labels == 0]
    return float((pairs * kernel(scores)).sum() / pairs.sum())


def obuchowski(first: Scores, second: Scores | None = None) -> float:
    """The variance of an AUC, or of a difference of two, as Obuchowski (1997) writes it: sums over clusters.

    S10 = I10 / ((I10 − 1) M) Σ (V10(X_i·) − m_i θ)², S01 likewise, S11 = I / (I − 1) Σ (…)(…);
    var = S10 / M + S01 / N + 2 S11 / (M N), here with weights: m_i, M, n_i, N are sums of them.
    """
    w, y = weights(first), first.labels
    x, n = w[y == 1], w[y == 0]
    difference, theta = kernel(first), auc(first)
    if second is not None:
        difference, theta = difference - kernel(second), theta - auc(second)
    v10, v01 = difference @ n / n.sum(), x @ difference / x.sum()
    groups = np.arange(len(y)) if first.groups is None else first.groups
    ours, theirs = groups[y == 1], groups[y == 0]
    s10 = s01 = s11 = 0.0
    for group in set(groups):
        a = (x * v10)[ours == group].sum() - x[ours == group].sum() * theta
        b = (n * v01)[theirs == group].sum() - n[theirs == group].sum() * theta
        s10, s01, s11 = s10 + a * a, s01 + b * b, s11 + a * b
    i10, i01, i = len(set(ours)), len(set(theirs)), len(set(groups))
    m, n_ = x.sum(), n.sum()
    return float(s10 * i10 / (i10 - 1) / m / m + s01 * i01 / (i01 - 1) / n_ / n_ + 2 * s11 * i / (i - 1) / m / n_)


def ndcg(gains: np.ndarray, predictions: np.ndarray, k: int) -> float:
    """The NDCG@k of one list: the mean over all orders of its rows in which no prediction is below the next one's."""

    def dcg(order: tuple[int, ...]) -> float:
        return float(sum(gains[row] / np.log2(2 + place) for place, row in enumerate(order[:k])))

    orders = itertools.permutations(range(len(gains)))
    found = [dcg(order) for order in orders if (np.diff(predictions[list(order)]) <= 0).all()]
    return float(np.mean(found)) / dcg(tuple(np.argsort(-gains)))


def drawn(rows: int, seed: int = 0, levels: int = 9, groups: int | None = None, weighted: bool = False) -> Scores:
    """Rows of both classes with ties, optionally with groups and weights."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.4).astype(float)
    labels[:2] = 0.0, 1.0
    predictions = np.clip(rng.integers(0, levels, rows) / levels + 0.2 * labels, 0, 1)
    codes = None if groups is None else rng.integers(0, groups, rows) * 7 + 3
    return Scores(BINARY, labels, predictions, rng.choice([0.5, 1.0, 3.0], rows) if weighted else None, codes)


def repeated(scores: Scores, times: np.ndarray) -> Scores:
    """Repeat each row."""
    rows = np.repeat(np.arange(len(scores)), times)
    groups = None if scores.groups is None else scores.groups[rows]
    return Scores(scores.task, scores.labels[rows], scores.predictions[rows], None, groups)
