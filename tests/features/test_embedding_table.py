"""The distinct ids of a batch, with exact and with spare slots."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recmtl.features.embedding_table import DistinctIds, distinct_ids, padded


def check(found: DistinctIds, ids: Tensor) -> None:
    assert torch.equal(found.ids[found.inverse], ids.long())
    used = found.inverse.unique()
    assert torch.equal(used, torch.arange(len(used)))
    assert len(found.ids[used].unique()) == len(used)


@given(st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 5), min_size=1, max_size=40))
def test_each_id_has_one_slot(values: list[int]) -> None:
    ids = torch.tensor(values, dtype=torch.int32)
    check(distinct_ids(ids), ids)
    assert len(distinct_ids(ids).ids) == len(set(values))
    found = padded(ids)
    check(found, ids)
    assert len(found.ids) == len(ids)
    assert found.source is not None
    # Writing to all places in any order is right: who writes to the same place writes the same row.
    assert torch.equal(found.ids[found.source], found.ids)
    assert torch.equal(found.source.unique(), found.inverse.unique())


def test_many_columns() -> None:
    ids = torch.randint(0, 50, (30, 4), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
    check(distinct_ids(ids), ids)
    check(padded(ids), ids)


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_no_shape_depends_on_a_value(shape: tuple[int, ...]) -> None:
    slots, inverse, source = distinct_ids(torch.zeros(shape, dtype=torch.int32, device="meta"))
    assert len(slots) == len(source) == inverse.numel()
    assert inverse.shape == shape
