"""Histograms that are cut by ranges of predictions, and groups that are numbered by several owners."""

import itertools
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from recmtl.evaluate.binary import ScoreHistogram, score_histogram
from recmtl.evaluate.measures.binary import FUNCTIONS
from recmtl.evaluate.scores import Scores
from recmtl.evaluate.shares import (
    alone,
    beside,
    columns_of,
    cut,
    cut_points,
    groups_by_owner,
    merged,
    numbered_groups,
    sample,
)
from recmtl.schema import Task


def ranges_of(shares: list[ScoreHistogram], count: int) -> list[ScoreHistogram]:
    points = cut_points([sample(share, count) for share in shares], count)
    pieces = zip(*(cut(share, points) for share in shares), strict=True)
    found = [merged(parts) for parts in pieces]
    weights = [np.array(one.weights()) for one in found]
    sides = [beside(weights, number) for number in range(count)]
    return [replace(one, below=below, above=above) for one, (below, above) in zip(found, sides, strict=True)]


def rows(kind: str, count: int = 3000) -> Scores:
    rng = np.random.default_rng(len(kind))
    labels = rng.integers(0, 2, count).astype(float)
    if kind == "soft":
        labels = rng.choice([0.0, 0.25, 0.7, 1.0], count)
    p = {"ties": rng.integers(0, 9, count) / 8, "constant": np.full(count, 0.3)}.get(kind, rng.random(count))
    weight = rng.uniform(0.1, 3, count) if kind in ("weighted", "soft") else None
    return Scores(Task("ctr", "click"), labels, p, weight)


def arrays(scores: Scores) -> tuple[np.ndarray | None, ...]:
    return scores.labels, scores.predictions, scores.weight


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("kind", ["plain", "ties", "constant", "weighted", "soft"])
def test_sums_of_ranges_are_those_of_all_rows(kind: str, count: int) -> None:
    given, ends = rows(kind), [0, 0, 700, 701, 2000, 3000]  # one share has no row, another a single one
    masks = [slice(*pair) for pair in itertools.pairwise([*ends[:count], 3000])]
    of_shares = ((a if a is None else a[mask] for a in arrays(given)) for mask in masks)
    shares = [score_histogram(Scores(given.task, *parts)) for parts in of_shares]
    found, whole = ranges_of(shares, count), score_histogram(given)
    joined = np.concatenate([columns_of(one) for one in found])
    np.testing.assert_allclose(joined, columns_of(whole), rtol=1e-13)
    for name, (sums, value) in FUNCTIONS.items():
        added, expected = sum(sums(one) for one in found), sums(whole)
        exact = name == "auc" and given.weight is None
        np.testing.assert_allclose(added, expected, rtol=0 if exact else 1e-12, err_msg=name, atol=1e-12 * (not exact))
        assert value(added) == (value(expected) if exact else pytest.approx(value(expected), rel=1e-12))


def test_worked_by_hand() -> None:
    """A tie lies in one range, though two shares hold it: 3 of 6 pairs are in order."""
    low = ScoreHistogram(np.array([0.1, 0.5]), np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    high = ScoreHistogram(np.array([0.5, 0.9]), np.array([0.0, 1.0]), np.array([1.0, 0.0]))
    first, second = ranges_of([low, high], 2)
    assert first.values.tolist() == [0.1, 0.5]
    assert (first.positives.tolist(), first.negatives.tolist()) == ([1, 1], [0, 2])
    assert (second.values.tolist(), second.below, second.above) == ([0.9], (2.0, 2.0), (0.0, 0.0))
    assert (first.below, first.above) == ((0.0, 0.0), (1.0, 0.0))
    assert (first.auc_sums() + second.auc_sums()).tolist() == [3.0, 3.0, 2.0]


@pytest.mark.parametrize("count", [2, 8, 64])
def test_no_range_holds_much_more_than_its_part(count: int) -> None:
    rng = np.random.default_rng(count)
    values = [np.unique(rng.beta(1, 1 + 20 * (share % 3), 4000 + 40 * share)) for share in range(count)]
    shares = [ScoreHistogram(one, np.ones(len(one)), np.ones(len(one))) for one in values]
    held = [len(one.values) for one in ranges_of(shares, count)]
    assert sum(held) == len(np.unique(np.concatenate(values)))
    assert max(held) <= 9 / 8 * sum(held) / count


def test_equal_groups_get_equal_numbers_in_all_shares() -> None:
    given = [["b", "a", None, "b"], [], ["c", "b", None, None, "a"]]
    columns = [pa.chunked_array([pa.array(column, pa.string())]) for column in given]
    found = [groups_by_owner(column, "search", 3) for column in columns]
    answers = [numbered_groups([parts[owner] for parts, _ in found], owner, 3) for owner in range(3)]
    numbers = []
    for rank, (_, places) in enumerate(found):
        own = np.append(np.concatenate([answer[rank] for answer in answers]), -1)
        numbers += alone(own[places], rank, 3).tolist()
    names = [name for column in given for name in column]
    assert len(set(numbers)) == 3 + 3  # each row without a group is one
    assert all(len({n for n, name in zip(numbers, names, strict=True) if name == letter}) == 1 for letter in "abc")
    assert [owner for parts, _ in found for owner, part in enumerate(parts) if "b" in part.to_pylist()] == [
        next(n for n, name in zip(numbers, names, strict=True) if name == "b") % 3
    ] * 2
