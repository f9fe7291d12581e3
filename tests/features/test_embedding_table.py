"""The distinct ids of a batch, with exact and with spare slots."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recmtl.data import IdLists
from recmtl.features import EmbeddingTable
from recmtl.features import table_rows as rows_module
from recmtl.features.table_rows import DistinctIds, distinct_ids, padded
from recmtl.schema import Categorical, IdBlock, MultiCategorical


def check(found: DistinctIds, ids: Tensor) -> None:
    assert torch.equal(found.ids[found.inverse], ids.long())
    used = found.inverse.unique()
    assert torch.equal(used, torch.arange(len(used)))
    assert len(found.ids[used].unique()) == len(used)


@given(st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 40))
def test_each_id_has_one_slot(values: list[int], spare: int) -> None:
    ids = torch.tensor(values, dtype=torch.int32)
    check(distinct_ids(ids, len(ids)), ids)
    assert len(distinct_ids(ids, len(ids)).ids) == len(set(values))
    most = min(len(set(values)) + spare, len(ids))
    found = padded(ids, most)
    check(found, ids)
    assert len(found.ids) == most
    assert found.source is not None
    # Writing to all places in any order is right: who writes to the same place writes the same row.
    assert torch.equal(found.ids[found.source], found.ids)
    assert torch.equal(found.source.unique(), found.inverse.unique())


def test_many_columns() -> None:
    ids = torch.randint(0, 50, (30, 4), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    check(distinct_ids(ids, 50), ids)
    check(padded(ids, 50), ids)
    check(padded(ids, 120), ids)


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_no_shape_depends_on_a_value(shape: tuple[int, ...]) -> None:
    slots, inverse, source = distinct_ids(torch.zeros(shape, dtype=torch.int32, device="meta"), 4)
    assert source is not None
    assert len(slots) == len(source) == 4
    assert inverse.shape == shape


def test_slots_are_as_many_as_rows_can_be_distinct() -> None:
    """Two vocabularies larger than a batch, and 14 small ones, at 65,536 rows: 131,240 slots for 1,048,576 ids."""
    sizes = [2_000_000] * 2 + [12] * 14
    features = [Categorical(f"c{i}", hash_buckets=size) for i, size in enumerate(sizes)]
    blocks = [IdBlock(feature, size, i, 1) for i, (feature, size) in enumerate(zip(features, sizes, strict=True))]
    table = EmbeddingTable(blocks, 1)
    table.to("meta").start_row_mode()
    output = table(torch.zeros(65_536, 16, dtype=torch.int32, device="meta"))
    assert output.singles.shape == (65_536, 16, 1)
    assert table.gathered.rows.shape == (131_240, 1)


@pytest.mark.parametrize(("rows", "most"), [(2, 2 * 4 + 2), (5, 5 * 4 + 4), (50, 30 + 4)])
def test_features_that_share_a_vocabulary_share_its_slots(
    rows: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An item and a history of up to 3 items, of 30, beside a feature of 4; all different where that is possible."""
    monkeypatch.setattr(rows_module, "distinct_ids", padded)
    history = MultiCategorical("history", max_length=3, share_with="item")
    blocks = [IdBlock(history, 30, 0, 3), IdBlock(Categorical("item"), 30, 0, 1), IdBlock(Categorical("day"), 4, 1, 1)]
    table = EmbeddingTable(blocks, 2)
    items = torch.arange(rows * 4).view(rows, 4).int() % 30
    ids = torch.cat([items[:, 3:], torch.arange(rows)[:, None].int() % 4], 1)
    lists = (IdLists(items[:, :3].flatten(), torch.arange(0, 3 * rows + 1, 3)),)
    expected = table(ids, lists)
    table.start_row_mode()
    found = table(ids, lists)
    torch.testing.assert_close(found.singles, expected.singles, rtol=0, atol=0)
    torch.testing.assert_close(found.lists[0].values, expected.lists[0].values, rtol=0, atol=0)
    assert len(table.gathered.rows) == most
    assert len(table.gathered.places.unique()) == most
