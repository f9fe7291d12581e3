"""The same rows in the same batches for any number of processes, of which each reads its own part alone."""

import functools
from itertools import chain

import numpy as np
import pandas as pd
import pytest
from together import place
from torch import Tensor

from recmtl.data import Loader, Rows, group_order, loader, prepare, row_order
from recmtl.data.row_order import LaneOrder, spread
from recmtl.schema import MultiCategorical, Numeric, Schema, Task

ROWS, SIZE, BLOCK = 5003, 240, 20
NUMBERS = np.arange(ROWS)


@pytest.fixture(scope="module")
def data() -> Rows:
    """Rows with their number, in searches of 1 to 6 neighbours, and a list."""
    rng = np.random.default_rng(0)
    search = np.repeat(NUMBERS, rng.integers(1, 7, ROWS))[:ROWS]
    frame = pd.DataFrame({"row": NUMBERS.astype(float), "m": ["a|b", "b"] * (ROWS // 2) + ["a"], "search": search})
    features = [Numeric("row", transform="none"), MultiCategorical("m")]
    schema = Schema(features, [Task("y", "y", ranking_loss="pairwise")], group="search")
    return prepare(schema, frame.assign(y=NUMBERS % 2), holdout=0).train


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (loader, row_order):
        monkeypatch.setattr(module, "BLOCK_ROWS", BLOCK)
    monkeypatch.setattr(row_order, "LANE_ROWS", BLOCK)
    for module in (loader, group_order):
        monkeypatch.setattr(module, "PIECE_ROWS", 500)


def rows_of(loader: Loader, done: int = 0) -> list[list[int]]:
    return [batch.numeric[:, 0].long().tolist() for batch in loader.epoch(3, done)]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("seed", "window"), [(1, None), (1, 3840), (None, None), (None, 2000)])
def test_any_number_of_processes_has_the_same_batches(
    data: Rows, seed: int | None, window: int | None, grouped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process reads its rows and no others, in windows in its blocks alone, and goes on from any batch."""
    options = functools.partial(Loader, data, SIZE, seed=seed, window=window, grouped=grouped)
    whole = rows_of(options())
    assert sorted(chain(*whole)) == NUMBERS.tolist()
    cut = options()._grouped  # blocks of groups end between them
    edges = [start for start, _ in cut.blocks] if cut else range(0, ROWS, BLOCK)
    read: list[int] = []
    held: list[int] = []  # rows at a time
    packed = Rows.packed

    def packed_and_noted(self: Rows, rows: np.ndarray, groups: np.ndarray | None) -> Tensor:
        read.extend(rows)
        held.append(len(rows))
        return packed(self, rows, groups)

    monkeypatch.setattr(Rows, "packed", packed_and_noted)
    for number in (3,) if grouped else (2, 3, 5):
        blocks = []
        shares = []
        held.clear()
        for rank in range(number):
            read.clear()
            shares.append(rows_of(options(processes=place(rank, number))))
            assert sorted(read) == sorted(chain(*shares[-1]))
            assert len(read) == pytest.approx(ROWS / number, rel=0.1)
            blocks.append(len({*np.searchsorted(edges, read, side="right").tolist()}))
            assert rows_of(options(processes=place(rank, number)), 7) == shares[-1][7:]
        for batch, *parts in zip(whole, *shares, strict=True):
            assert sorted(chain(*parts)) == sorted(batch)
            if len(batch) >= SIZE / 2 and window != 2000:
                unequal = max(map(len, parts)) - min(map(len, parts))
                assert unequal <= (18 if grouped else 6)  # groups have up to 6 rows
        assert max(held) <= max(500, SIZE, (window or 0) // number + SIZE)
        if window and seed is not None:
            assert max(blocks) <= 1.05 * len(edges) / number + 4


def test_lists_and_totals_are_those_of_the_batch(data: Rows) -> None:
    whole = list(Loader(data, SIZE, seed=1).epoch())
    parts = [list(Loader(data, SIZE, seed=1, processes=place(rank, 2)).epoch()) for rank in range(2)]
    for batch, *own in zip(whole, *parts, strict=True):
        assert [part.total_rows for part in own] == [len(batch)] * 2
        for part in own:
            expected = data.lists()[0].take(part.numeric[:, 0].long())
            assert all(found.equal(tensor) for found, tensor in zip(part.lists[0], expected, strict=True))


@pytest.mark.parametrize("processes", [3, 7, 64])
def test_processes_have_nearly_as_many_rows_of_each_batch(processes: int) -> None:
    """1 million rows in windows of 200,000 and batches of 64 rows a process: steps wait for the one with the most."""
    rows, size = 1_000_003, 64 * processes
    bounds = np.append(np.arange(0, rows, size), rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_order, "LANE_ROWS", 1024)
        orders = [LaneOrder(rows, bounds, place(rank, processes), 200_000, (0, 1)) for rank in range(processes)]
    sizes = np.array([order.sizes for order in orders])
    assert np.array_equal(sizes.sum(0), np.diff(bounds))
    assert sizes[:, :-1].max() <= 1.1 * 64
    assert sizes.sum(1).max() <= 1.04 * rows / processes


def test_neighbouring_places_belong_to_lanes_far_apart() -> None:
    for lanes in (1, 2, 12, 192):
        assert sorted(spread(lanes)) == list(range(lanes))
    for first in range(192 - 24):
        counts = np.bincount(spread(192)[first : first + 24] // 24, minlength=8)  # of 8 processes
        assert counts.min() >= 2
        assert counts.max() <= 4
