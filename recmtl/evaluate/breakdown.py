"""Where predictions of classes and amounts are right: class by class, and over the range of an amount."""

from __future__ import annotations

import numpy as np
import pandas as pd

from recmtl.evaluate.binary import block_starts, block_sums, score_histogram
from recmtl.evaluate.measures.multiclass import one_vs_rest
from recmtl.evaluate.scores import Floats, Scores

DECILES = 10


def class_table(scores: Scores) -> pd.DataFrame:
    r"""Return how well each class of a multi-class task is separated from the others.

    A row is predicted to be of its most probable class, the first of equal ones. With row weights $w$, recall is
    $\sum w\,[y = c,\, \hat y = c] / \sum w\,[y = c]$, precision the same over $\sum w\,[\hat y = c]$.

    Args:
        scores: The rows of a multi-class task.

    Returns:
        A row for each class in their order, with the columns `class`, `rows`, `predicted` (rows predicted to be of it),
        `recall`, `precision`, and `auc` of the class against all others. A value that is undefined, as no row is of the
        class or predicted to be, is NaN.
    """
    counts = _confusion(scores)  # [C, C]
    hits = np.diag(counts)
    labels, top = scores.labels.astype(np.int64), scores.predictions.argmax(1)
    classes = scores.task.classes
    with np.errstate(invalid="ignore"):
        recall, precision = hits / counts.sum(1), hits / counts.sum(0)
    return pd.DataFrame(
        {
            "class": classes,
            "rows": np.bincount(labels, minlength=len(classes)),
            "predicted": np.bincount(top, minlength=len(classes)),
            "recall": recall,
            "precision": precision,
            "auc": [score_histogram(rows).auc() for rows in one_vs_rest(scores)],
        }
    )


def confusion_table(scores: Scores) -> pd.DataFrame:
    """Return which classes are taken for which: of the weight of each class's rows the share predicted as each.

    Args:
        scores: The rows of a multi-class task.

    Returns:
        A row for each class of the labels, a column for each predicted class; NaN for a class without rows.
    """
    counts = _confusion(scores)
    with np.errstate(invalid="ignore"):
        shares = counts / counts.sum(1, keepdims=True)
    return pd.DataFrame(shares, pd.Index(scores.task.classes, name="label"), pd.Index(scores.task.classes))


def _confusion(scores: Scores) -> Floats:
    """Return the weight of the rows of each class (rows) that are predicted to be of each (columns), ``[C, C]``."""
    size = scores.predictions.shape[1]
    pairs = scores.labels.astype(np.int64) * size + scores.predictions.argmax(1)
    return np.bincount(pairs, scores.weight, size * size).astype(np.float64).reshape(size, size)


def decile_table(scores: Scores, bins: int = DECILES) -> pd.DataFrame:
    """Return mean predictions and mean labels by bins of equal weight, from the lowest predictions to the highest.

    Equal predictions share the bin of the middle of their weight, so a bin may be larger than others, or empty and
    then left out.

    Args:
        scores: The rows of an amount or a regression.
        bins: The maximum number of bins.

    Returns:
        A row for each bin, with the columns `low` and `high` (the lowest and the highest prediction), `predicted` and
        `observed` (weighted means), and `rows`.
    """
    order = np.argsort(scores.predictions, kind="stable")
    predictions, labels = scores.predictions[order], scores.labels[order]
    weight = np.ones(len(order)) if scores.weight is None else scores.weight[order]
    ties = block_starts(predictions)
    of_ties = block_sums(weight, ties)
    middle = np.cumsum(of_ties) - of_ties / 2
    numbers = np.minimum((middle * (bins / max(of_ties.sum(), 1e-300))).astype(np.int64), bins - 1)
    starts = ties[block_starts(numbers)]
    total = block_sums(weight, starts)
    return pd.DataFrame(
        {
            "low": predictions[starts],
            "high": predictions[np.append(starts[1:], len(order)) - 1] if len(order) else np.zeros(0),
            "predicted": block_sums(weight * predictions, starts) / total,
            "observed": block_sums(weight * labels, starts) / total,
            "rows": np.diff(starts, append=len(order)),
        }
    )
