"""Grouped ranking metrics: AUC, NDCG@k and recall@k within each search or user."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from recmtl.evaluate.binary import block_starts, block_sums
from recmtl.evaluate.scores import Floats, Integers, Scores

K = 10  # default of NDCG@k and recall@k


def by_group(scores: Scores, k: int = K, order: Integers | None = None) -> pd.DataFrame:
    """Measure each group of a binary task by AUC, NDCG@k and recall@k, or of amounts by NDCG@k.

    The gain of a row in NDCG is its label, and the discount is log2(1 + place). In a group with one class alone, or of
    equal amounts, all are undefined. Tied predictions count with the mean over all their orders (McSherry & Najork
    2008), so a constant predictor scores like chance.

    A row's weight weights its pairs in the AUC, and its gain in NDCG and recall. There a row takes one place of the
    list; a row of a thinned file takes those of all the rows it stands for.

    Shape:
        - order: ``[rows]``

    Args:
        scores: The rows, with their groups.
        k: The cutoff of NDCG and recall.
        order: The rows in ascending order of prediction, if it is known already.

    Returns:
        A row for each group, in ascending order, with the columns `rows`, `weight` (of all its rows), `positives`
        (their number), `gain` (their mean weight), `auc`, `ndcg` and `recall`; of amounts `rows`, `weight`, `labels`
        (their sum), `gain` (the mean weight, by label) and `ndcg`.

    Raises:
        ValueError: The rows have no groups, the task is neither binary nor an amount, or k is below 1.
    """
    if scores.groups is None:
        raise ValueError("metrics by group need `groups`, got rows without")
    if scores.task.kind not in ("binary", "amount"):
        raise ValueError(f"metrics by group are of binary tasks and amounts, got one of kind {scores.task.kind!r}")
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}")
    binary = scores.task.kind == "binary"
    order = np.argsort(scores.predictions) if order is None else order
    order = order[np.argsort(scores.groups[order], kind="stable")]
    groups, labels = scores.groups[order], scores.labels[order]
    weight = np.ones(len(order)) if scores.weight is None else scores.weight[order]
    ties = block_starts(groups, scores.predictions[order])  # [T], T pairs of a group and a distinct prediction
    starts = block_starts(groups[ties])  # [G], in ties
    gains = block_sums(weight * labels, ties)
    taken = np.ones(len(order)) if scores.sampling_weight is None else scores.sampling_weight[order]
    places = block_sums(taken, ties)
    firsts = ties[starts]  # [G], in rows
    rows, total = np.diff(firsts, append=len(order)), block_sums(labels, firsts)
    shown, gain = block_sums(weight, firsts), block_sums(gains, starts)
    mixed = (total > 0) & (total < rows) if binary else _differ(labels, firsts, rows)
    hard = binary and not scores.soft
    frame = pd.DataFrame(
        {
            "rows": rows,
            "weight": shown,
            "positives" if binary else "labels": total.astype(np.int64) if hard else total,
            "gain": np.divide(gain, total, out=np.zeros(len(total)), where=total > 0),
        },
        index=pd.Index(groups[firsts], name="group"),
    )
    best = _ideal_dcg(labels, weight * labels, taken, firsts, k, hard and scores.weight is None)
    first, last = _places(places, starts, k)
    span = np.maximum(places, np.finfo(float).tiny)
    dcg = block_sums(gains * (_discounted(last, k) - _discounted(first, k)) / span, starts)
    quotients = {"ndcg": (dcg, best)}
    if binary:
        found = block_sums(gains * (last - first) / span, starts)
        won = _won(gains, block_sums(weight, ties) - gains, starts)
        quotients = {"auc": (won, gain * (shown - gain)), **quotients, "recall": (found, gain)}
    for name, (part, whole) in quotients.items():
        frame[name] = np.divide(part, whole, out=np.full(len(frame), np.nan), where=mixed)
    return frame


def _differ(labels: Floats, starts: Integers, rows: Integers) -> npt.NDArray[np.bool_]:
    """Return which groups have labels that differ ``[G]``, from where they start and their numbers of rows."""
    return block_sums((labels != np.repeat(labels[starts], rows)).astype(np.float64), starts) > 0


def _won(positives: Floats, negatives: Floats, starts: Integers) -> Floats:
    """Return the weight of the pairs in the right order in each group ``[G]``."""
    below = _before(negatives, starts) + negatives / 2
    return block_sums(positives * below, starts)


def _before(values: Floats, starts: Integers) -> Floats:
    """Sum the entries before each entry within its block ``[T]``."""
    running = np.cumsum(values) - values
    return running - np.repeat(running[starts], np.diff(starts, append=len(values)))


def _places(places: Floats, starts: Integers, k: int) -> tuple[Floats, Floats]:
    """Return where the rows of each tie begin and end in its group's list, from the top, at most k: ``[T]`` each."""
    sizes = np.diff(starts, append=len(places))
    above = np.repeat(block_sums(places, starts), sizes) - _before(places, starts) - places
    first = np.clip(above, 0, k)
    return first, np.minimum(first + places, k)


def _discounted(places: Floats, k: int) -> Floats:
    """Sum the discounts 1 / log2(1 + place) of the first places, at most k; fractions of a place count."""
    discounts = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    summed: Floats = np.interp(places, np.arange(k + 1), discounts)
    return summed


def _ideal_dcg(labels: Floats, gains: Floats, taken: Floats, starts: Integers, k: int, unweighted: bool) -> Floats:
    """Return the best DCG of each group ``[G]``: rows in descending order of their gains per place."""
    if unweighted:
        return _discounted(block_sums(labels, starts), k)
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(labels)))
    positive = np.flatnonzero(labels)
    gains = gains / taken
    positive = positive[np.lexsort((-gains[positive], group[positive]))]
    owner, places = group[positive], taken[positive]
    first = _before(places, block_starts(owner))
    discount = _discounted(first + places, k) - _discounted(first, k)
    best: Floats = np.bincount(owner, gains[positive] * discount, minlength=len(starts)).astype(np.float64)
    return best


class Averages:
    """Averages of grouped metrics over the groups with both classes, or with different amounts.

    AUC is weighted by impressions (the weight of a group's rows), NDCG and recall by the mean weight of its positives
    (of amounts: the mean weight, by label), so groups of unweighted rows count alike. `groups` is the result of
    `by_group`.
    """

    def __init__(self, groups: pd.DataFrame, k: int = K) -> None:
        mixed = groups.ndcg.notna().to_numpy()
        self.groups, self.left_out = len(mixed), int((~mixed).sum())
        columns = {"gauc": ("auc", "weight"), f"ndcg@{k}": ("ndcg", "gain"), f"recall@{k}": ("recall", "gain")}
        columns = {name: pair for name, pair in columns.items() if pair[0] in groups}
        self._shares = {name: np.where(mixed, groups[share], 0.0) for name, (_, share) in columns.items()}  # [G] each
        self._values = {name: np.where(mixed, groups[value], 0.0) for name, (value, _) in columns.items()}

    def sums(self, name: str, times: Floats | None = None) -> Floats:
        """Return the sums whose quotient is `gauc`, `ndcg@K` or `recall@K` ``[2]``.

        `times` is how often each group counts, ``[G]``.
        """
        shares = self._shares[name] if times is None else self._shares[name] * times
        return np.array([shares @ self._values[name], shares.sum()])
