"""The first rows of large tables: the same, whole and in the parts of any number of processes."""

import pytest
import torch

from recmtl.features import EmbeddingTable, sharding
from recmtl.features.row_places import RowPlaces
from recmtl.schema import Categorical, IdBlock

STD = 0.01


@pytest.mark.parametrize("rows", [2, 20, 23])
def test_parts_are_those_of_the_whole_table(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the draw of all blocks at once; of two rows, some processes have none. Seeds may pass 2³²."""
    monkeypatch.setattr(sharding, "BLOCK", 5)
    seed = (1 << 32) - 2
    seeds = [(seed + block) % (1 << 32) for block in range(-(-rows // 5))]
    drawn = [torch.empty(5, 3).normal_(0, STD, generator=torch.Generator().manual_seed(each)) for each in seeds]
    by_place = torch.cat(drawn)[:rows]
    whole = sharding.whole_table(seed, rows, 3)
    assert torch.equal(whole[RowPlaces(rows, 1, 0).own_rows()], by_place)
    for processes in (2, 3, 5):
        places = [RowPlaces(rows, processes, rank) for rank in range(processes)]
        assert torch.equal(torch.cat([sharding.own_rows(seed, own, 3) for own in places]), by_place)


def test_the_rows_of_a_large_table_are_normal() -> None:
    """Of several blocks, the last one short: no row is left out or drawn twice, and the seed is the caller's."""
    rows = 2 * sharding.BLOCK + 1_000
    torch.manual_seed(0)
    weight, other = (EmbeddingTable([IdBlock(Categorical("user"), rows, 0, 1)], 8).weight.detach() for _ in range(2))
    torch.manual_seed(0)
    assert torch.equal(weight, EmbeddingTable([IdBlock(Categorical("user"), rows, 0, 1)], 8).weight)
    assert len(torch.cat([weight, other])[:, 0].unique()) > 0.99 * 2 * rows  # float32 has few values so near to zero
    for block in weight[1:].split(20_000):
        assert block.mean().abs().item() < 5 * STD / block.numel() ** 0.5
        assert block.std().item() == pytest.approx(STD, rel=0.02)
