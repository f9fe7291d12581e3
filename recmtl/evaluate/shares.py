"""Measure rows that are held in shares: cut them by ranges of predictions, and join what belongs together.

The histogram of each share is cut at the same `cut_points`, and the holder of a range merges its pieces, so that equal
predictions are in one range. With the weights `beside` it, the sums of the ranges add up to those of all rows: whole
numbers, as in the AUC of unweighted rows, exactly, others to the rounding of float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.values import as_text, stable_hash
from recmtl.evaluate.binary import ScoreHistogram, Side, block_starts, block_sums
from recmtl.evaluate.scores import Floats, Integers

SAMPLES = (
    16  # of each share's predictions for each range: no range gets over 1 + 1/16 of its part, and one more a share
)


def columns_of(histogram: ScoreHistogram) -> Floats:
    """Return predictions, positives and negatives as columns ``[V, 3]``."""
    return np.stack([histogram.values, histogram.positives, histogram.negatives], axis=1)


def sample(histogram: ScoreHistogram, ranges: int) -> Floats:
    """Return evenly spaced predictions of a share, and how many each stands for ``[samples, 2]``."""
    values, count = histogram.values, min(len(histogram.values), SAMPLES * ranges)
    places = (np.arange(count) * 2 + 1) * len(values) // (2 * max(count, 1))  # in the middle of each stretch
    return np.stack([values[places], np.full(count, len(values) / max(count, 1))], axis=1)


def cut_points(samples: Sequence[Floats], ranges: int) -> Floats:
    """Return where predictions are cut into ranges that hold about equally many distinct ones ``[ranges − 1]``.

    Args:
        samples: The `sample` of each share.
        ranges: The number of ranges.
    """
    values, stand_for = np.concatenate(samples).T
    order = np.argsort(values, kind="stable")
    below = np.cumsum(stand_for[order])
    wanted = np.arange(1, ranges) / ranges * (below[-1] if len(below) else 0.0)
    places = np.searchsorted(below, wanted)
    points: Floats = values[order][places] if len(values) else np.zeros(ranges - 1)
    return points


def cut(histogram: ScoreHistogram, points: Floats) -> list[Floats]:
    """Return the columns of the histogram of a share in each range; a prediction equal to a point lies below it."""
    return np.split(columns_of(histogram), np.searchsorted(histogram.values, points, side="right"))


def merged(pieces: Sequence[Floats]) -> ScoreHistogram:
    """Return the histogram of one range from the columns of each share."""
    columns = np.concatenate(pieces)
    values, positives, negatives = columns[np.argsort(columns[:, 0], kind="stable")].T
    starts = block_starts(values)
    return ScoreHistogram(values[starts], block_sums(positives, starts), block_sums(negatives, starts))


def beside(weights: Sequence[Floats], number: int) -> tuple[Side, Side]:
    """Return the weights of positives and of negatives below and above a range, from those in each of them ``[2]``."""
    below, above = (sum(part, np.zeros(2)) for part in (weights[:number], weights[number + 1 :]))
    return (float(below[0]), float(below[1])), (float(above[0]), float(above[1]))


def groups_by_owner(column: pa.ChunkedArray, name: str, owners: int) -> tuple[list[pa.StringArray], Integers]:
    """Return the distinct groups of a share for each of those who number them, by their hashes.

    Beside them the place of each row's group among all of these ``[rows]``, −1 for a row without a group.
    """
    values, codes = as_text(column.combine_chunks(), name)
    encoded = values.dictionary_encode()
    distinct = encoded.dictionary
    owner = (stable_hash(distinct) % np.uint64(owners)).astype(np.int64)
    order = np.argsort(owner, kind="stable")
    place = np.empty(len(order) + 1, np.int64)
    place[order], place[-1] = np.arange(len(order)), -1
    of_value = np.append(encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), -1)
    parts = np.split(order, np.cumsum(np.bincount(owner, minlength=owners))[:-1])
    return [distinct.take(pa.array(part)) for part in parts], place[of_value[codes]]


def numbered_groups(asked: Sequence[pa.StringArray], owner: int, owners: int) -> list[Integers]:
    """Return the numbers of the groups that each share asked one owner for: equal groups get equal numbers."""
    codes = pa.chunked_array([*asked, pa.array([], pa.string())]).combine_chunks().dictionary_encode().indices
    numbers = codes.to_numpy(zero_copy_only=False).astype(np.int64) * owners + owner
    return np.split(numbers, np.cumsum([len(part) for part in asked])[:-1])


def alone(groups: Integers, rank: int, shares: int) -> Integers:
    """Return group numbers in which each row without a group, −1, is a group of its own in all shares."""
    missing = groups < 0
    return np.where(missing, -1 - (rank + shares * np.cumsum(missing)), groups)


def by_owner(owners: npt.NDArray[np.int64], count: int) -> tuple[Integers, Integers]:
    """Return rows in the order of their owners ``[rows]``, and how many each owner gets ``[count]``."""
    return np.argsort(owners, kind="stable"), np.bincount(owners, minlength=count)
