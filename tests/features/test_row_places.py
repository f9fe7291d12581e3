"""Where the rows of a table lie that is spread over processes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recmtl.features.row_places import RowPlaces, scattering_factor


@given(st.integers(1, 500), st.integers(1, 70))
def test_each_row_has_one_place_and_one_owner(rows: int, processes: int) -> None:
    every = torch.arange(rows)
    owned = [RowPlaces(rows, processes, rank) for rank in range(processes)]
    places = owned[0].places_of(every)
    assert torch.equal(places.sort().values, every)
    assert torch.equal(owned[0].rows_at(places), every)
    assert torch.equal(torch.cat([own.own_rows() for own in owned]), owned[0].rows_at(every))
    chunks = [len(chunk) for chunk in torch.chunk(every, processes)]  # as torch's `Shard(0)` cuts
    assert [own.own for own in owned] == chunks + [0] * (processes - len(chunks))
    for rank, own in enumerate(owned):
        assert (own.owners_of(own.own_rows()) == rank).all()


def test_large_products_do_not_overflow() -> None:
    """The largest table that int32 ids address: the products stay below 2⁶³, and Python's integers agree."""
    rows = (1 << 31) - 1
    places, last = RowPlaces(rows, 64, 63), torch.tensor([rows - 1, rows - 2, 12_345], dtype=torch.int32)
    assert places.places_of(last).tolist() == [int(r) * scattering_factor(rows) % rows for r in last]
    assert torch.equal(places.rows_at(places.places_of(last)), last.long())


@pytest.mark.parametrize("rows", [1_000_000, 1_000_003, 1 << 20])
@pytest.mark.parametrize("processes", [8, 64])
def test_the_frequent_rows_are_spread_evenly(rows: int, processes: int) -> None:
    """The distinct ids of a batch of 65,536 from a Zipf vocabulary sorted by frequency: the busiest owner's share.

    In the order of the ids the first process of 64 would have about 30 times the mean.
    """
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(65_536, generator=generator, dtype=torch.float64)
    ids = ((rows + 1) ** uniform).long() - 1  # P(id) is about 1 / (id + 1)
    distinct = ids.clamp(max=rows - 1).unique()
    places = RowPlaces(rows, processes, 0)
    counts = torch.bincount(places.owners_of(distinct), minlength=processes)
    assert counts.max() <= 1.2 * counts.double().mean()
    in_order = torch.bincount(distinct // math.ceil(rows / processes), minlength=processes)
    assert in_order.max() > 5 * in_order.double().mean()
