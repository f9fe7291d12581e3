"""Find label leaks: columns that alone separate a label."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.values import Codes, Floats
from recmtl.data.profiling.tally import STREAM
from recmtl.schema import Schema

LEAK_AUC = 0.95  # of a single column; honest features stay far below
ENOUGH = 10  # groups with each class, so that no column reaches this AUC by chance
FOLDS = 5
SMOOTHING = 10.0  # rows with the mean rate that are added to each category
FEW_NUMBERS = 1000  # distinct numbers that are treated as categories, too


class Leak(NamedTuple):
    """A column that alone separates a label; `same` if it is the label recoded: two values, one for each class."""

    column: str
    label: str
    auc: float
    same: bool

    def __str__(self) -> str:
        what = (
            f"is label {self.label!r} in other words"
            if self.same
            else f"alone separates label {self.label!r} with AUC {self.auc:.3f}"
        )
        return f"column {self.column!r} {what}: is it known before {self.label!r} is?"


def search_leaks(
    features: Mapping[str, Floats | Codes], sample: pa.Table, schema: Schema
) -> tuple[list[Leak], list[str]]:
    """Find the features that leak a binary label in a sample of rows, and note labels that have too few rows."""
    labels = {name: _rounded(sample[name].to_numpy()) for name in schema.labels if name in schema.binary_labels}
    groups = np.arange(sample.num_rows) if schema.group is None else category_codes(sample[schema.group])
    searched = {name: label for name, label in labels.items() if has_both_classes(label, groups)}
    notes = [
        f"label {name!r} has fewer than {ENOUGH} groups (or rows, without a group) with a class in the sample: "
        "columns that give it away were not looked for"
        for name in labels
        if name not in searched
    ]
    return list(find_leaks(features, searched, groups)), notes


def _rounded(label: Floats) -> Floats:
    """Round soft labels to 0 and 1, NaN where one is missing."""
    return np.where(np.isnan(label), np.nan, label >= 0.5)


def category_codes(column: pa.ChunkedArray) -> Codes:
    """Number the distinct values of a column from 0 ``[rows]``; missing is one of them."""
    codes: Codes = column.combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
    return codes


def has_both_classes(label: Floats, groups: Codes) -> bool:
    """Return whether a binary label ``[rows]`` has both classes in enough groups to look for leaks.

    Rows of one group, such as a search, share columns: if one group holds all positives, any of these separates them.
    """
    return min(len(np.unique(groups[label == value])) for value in (0, 1)) >= ENOUGH


def find_leaks(columns: Mapping[str, Floats | Codes], labels: Mapping[str, Floats], groups: Codes) -> Iterator[Leak]:
    """Yield the columns that alone reach an AUC of `LEAK_AUC` for a label.

    Columns, labels (NaN: missing, both classes) and groups have shape ``[rows]``. Columns of floats are numbers (NaN:
    missing), those of integers categories from 0. Rows of one group are not independent.
    """
    fold = np.random.default_rng([STREAM, FOLDS]).integers(0, FOLDS, int(groups.max(initial=0)) + 1)[groups]
    for column, values in columns.items():
        distinct, ranks = np.unique(values, return_inverse=True)
        number = values.dtype.kind == "f"
        category = not number or len(distinct) <= FEW_NUMBERS
        missing = np.isnan(values) if number else np.zeros(len(values), bool)
        for name, label in labels.items():
            valid = ~np.isnan(label)
            truth = label[valid] == 1
            aucs = [_rate_auc(ranks[valid], truth, fold[valid])] if category else []
            aucs += _number_aucs(ranks[valid], missing[valid], truth, groups[valid]) if number else []
            if max(aucs) >= LEAK_AUC:
                yield Leak(column, name, max(aucs), category and _is_recoded_label(ranks[valid], truth))


def _number_aucs(
    ranks: Codes, missing: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], groups: Codes
) -> list[float]:
    """AUC of numbers in the better direction: of the present ones, and with missing ones below all others."""
    kept = [~missing] if has_both_classes(truth[~missing].astype(np.float64), groups[~missing]) else []
    kept += [np.ones_like(missing)] if missing.any() else []
    scores = np.where(missing, -1, ranks)
    aucs = [_auc(truth[rows], scores[rows]) for rows in kept]
    return [max(auc, 1 - auc) for auc in aucs]


def _rate_auc(codes: Codes, truth: npt.NDArray[np.bool_], fold: Codes) -> float:
    """AUC of each category's smoothed label rate, measured in the other folds."""
    size = int(codes.max()) + 1
    pairs = fold * size + codes
    rows = np.bincount(pairs, minlength=FOLDS * size).reshape(FOLDS, size)
    positives = np.bincount(pairs, weights=truth, minlength=FOLDS * size).reshape(FOLDS, size)
    rows, positives = rows.sum(axis=0) - rows, positives.sum(axis=0) - positives  # [folds, categories]: the others'
    prior = truth.mean()
    rates = (positives + SMOOTHING * prior) / (rows + SMOOTHING)
    return _auc(truth, rates[fold, codes])


def _auc(truth: npt.NDArray[np.bool_], scores: npt.NDArray[Any]) -> float:
    """Return the share of (positive, negative) pairs in the right order; ties count half."""
    places = np.unique(scores, return_inverse=True)[1]
    positives, negatives = np.bincount(places[truth], minlength=1 + places.max()), np.bincount(places[~truth])
    negatives = np.pad(negatives, (0, len(positives) - len(negatives)))
    below = np.cumsum(negatives) - negatives / 2
    return float(positives @ below / (positives.sum() * negatives.sum()))


def _is_recoded_label(codes: Codes, truth: npt.NDArray[np.bool_]) -> bool:
    """Whether there are two categories, one for each class."""
    pairs = np.unique(np.column_stack([codes, truth]), axis=0)
    return len(pairs) == len(np.unique(codes)) == 2
