import numpy as np
import pandas as pd
import pytest
import torch
from together import place

from recmtl.data import Loader, Rows, loader, prepare
from recmtl.schema import Numeric, Schema, Task

ROWS = 300
SIZES = np.random.default_rng(0).integers(1, 9, ROWS)


def rows_of(groups: np.ndarray) -> Rows:
    frame = pd.DataFrame({"row": np.arange(len(groups), dtype=float), "g": groups, "y": np.arange(len(groups)) % 2})
    schema = Schema([Numeric("row", transform="none")], [Task("y", "y", ranking_loss="pairwise")], group="g")
    return prepare(schema, frame, holdout=0).train


CLUSTERED = np.repeat(np.arange(ROWS), SIZES)[:ROWS]
SCATTERED = CLUSTERED[np.random.default_rng(1).permutation(ROWS)]


def numbers(batch) -> np.ndarray:
    return batch.numeric[:, 0].long().numpy()


@pytest.mark.parametrize("groups", [CLUSTERED, SCATTERED], ids=["clustered", "scattered"])
@pytest.mark.parametrize("seed", [None, 4])
@pytest.mark.parametrize("size", [1, 2, 16, 29, 299, 1000])
def test_each_row_once_and_its_group_together(groups: np.ndarray, seed: int | None, size: int) -> None:
    loader = Loader(rows_of(groups), size, seed=seed, grouped=True)
    batches = list(loader.epoch(2))
    assert len(batches) == len(loader) == len(Loader(rows_of(groups), size))
    assert sorted(np.concatenate([numbers(batch) for batch in batches])) == list(range(ROWS))
    assert all(0 < len(batch) < max(2, 1.5 * size) + 1 for batch in batches)
    seen: list[int] = []
    for batch in batches:
        named = groups[numbers(batch)]
        runs = np.flatnonzero(np.diff(named, prepend=-1))
        assert np.array_equal(np.flatnonzero(np.diff(batch.groups.numpy(), prepend=-1)), runs)
        seen += named[runs].tolist()
        assert batch.largest_group == np.bincount(groups).max()
    if size >= 16:  # no group has more than half of it
        assert len(seen) == len({*seen})


def test_epochs_differ_and_can_be_repeated_from_any_batch() -> None:
    order = [
        np.concatenate([numbers(b) for b in Loader(rows_of(SCATTERED), 16, seed=s, grouped=True).epoch(e)])
        for s, e in ((0, 0), (0, 0), (0, 1), (1, 0))
    ]
    assert np.array_equal(order[0], order[1])
    assert len({o.tobytes() for o in order}) == 3
    loader = Loader(rows_of(SCATTERED), 16, seed=0, grouped=True)
    whole = list(loader.epoch(3))
    for done in (0, 1, 7, len(whole)):
        left = list(loader.epoch(3, done))
        assert [numbers(b).tolist() for b in left] == [numbers(b).tolist() for b in whole[done:]]


def test_a_long_group_is_cut_at_random_into_halves_of_a_batch_and_noted() -> None:
    groups = np.where(np.arange(ROWS) < 90, 0, np.arange(ROWS))
    loader = Loader(rows_of(groups), 20, seed=0, grouped=True)
    parts = [{*numbers(b)[groups[numbers(b)] == 0].tolist()} for e in (0, 1) for b in loader.epoch(e)]
    assert 10 <= max(map(len, parts)) <= 30
    assert not any(set(range(10)) <= part for part in parts)
    (note,) = loader.notes
    assert note == (
        "1 group of 'g' with more than 10 rows, half a batch, is cut: the ranking loss compares the rows of a "
        "part (a `batch_size` of 180 cuts none)"
    )
    assert Loader(rows_of(CLUSTERED), 20, seed=0, grouped=True).notes == []


@pytest.mark.parametrize("groups", [CLUSTERED, SCATTERED], ids=["clustered", "scattered"])
def test_windows(groups: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "BLOCK_ROWS", 16)
    found = Loader(rows_of(groups), 24, seed=0, window=64, grouped=True)
    batches = list(found.epoch(1))
    assert sorted(np.concatenate([numbers(batch) for batch in batches])) == list(range(ROWS))
    pieces = [g for b in batches for g in groups[numbers(b)][np.flatnonzero(np.diff(b.groups.numpy(), prepend=-1))]]
    if groups is CLUSTERED:
        assert len(pieces) == len({*pieces})
        assert found.notes == []
    else:
        assert len(pieces) > len({*pieces})
        (note,) = found.notes
        assert note.startswith("rows of one 'g' lie apart in the training rows, which are read in windows")
    for done in (1, 5):
        assert [numbers(b).tolist() for b in found.epoch(1, done)] == [numbers(b).tolist() for b in batches[done:]]


@pytest.mark.parametrize("processes", [2, 5])
def test_processes_get_whole_groups(processes: int) -> None:
    data = rows_of(SCATTERED)
    whole = list(Loader(data, 40, seed=0, grouped=True).epoch())
    shares = [
        list(Loader(data, 40, seed=0, processes=place(r, processes), grouped=True).epoch()) for r in range(processes)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part.numeric for part in parts]), batch.numeric)
        groups = [{*part.groups.tolist()} for part in parts]
        assert sum(map(len, groups)) == len(set.union(*groups))
        assert all(part.total_rows == len(batch) for part in parts)


def test_rows_without_a_group_are_groups_of_their_own() -> None:
    frame = pd.DataFrame({"x": np.arange(6.0), "g": ["a", None, "a", "", "b", None], "y": [0, 1, 0, 1, 0, 1]})
    schema = Schema([Numeric("x")], [Task("y", "y", ranking_loss="pairwise")], group="g")
    (batch,) = Loader(prepare(schema, frame, holdout=0).train, 10, seed=0, grouped=True).epoch()
    assert len({*batch.groups.tolist()}) == 5
