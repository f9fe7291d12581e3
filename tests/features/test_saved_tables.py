"""Tables that are kept in parts, by place: read by id, whole or as what another table grows from."""

from pathlib import Path

import pytest
import torch

from recmtl.features import EmbeddingTable
from recmtl.features.growth import DRAWN, RowOrigins
from recmtl.features.saved_tables import SavedRows, load_model, own_elements
from recmtl.runs import table_parts
from recmtl.runs.checkpoint_file import TABLES
from recmtl.runs.table_parts import TableParts
from recmtl.schema import Categorical, IdBlock

ROWS = 23


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TableParts:
    """The row of id r is r, and twice that is what an optimizer keeps of it; a piece has four rows."""
    monkeypatch.setattr(table_parts, "PIECE", 4 * 2 * 4)
    by_place = table().ids_at(0, ROWS).float()
    saved = {"weight": by_place[:, None].expand(-1, 2).contiguous(), "weight/sum": 2 * by_place[:, None]}
    return TableParts.write(tmp_path, saved)


def table(rows: int = ROWS) -> EmbeddingTable:
    return EmbeddingTable([IdBlock(Categorical("item"), rows, 0, 1)], 2)


def test_one_process_reads_whole_tables_in_the_order_of_ids(parts: TableParts) -> None:
    found, expected = table(), torch.arange(ROWS).float()[:, None]
    load_model(found, {"model": {}, TABLES: parts})
    assert found.weight.equal(expected.expand(-1, 2))
    elements = own_elements(found, {}, {"sum": SavedRows(parts, "weight/sum")})
    assert elements["sum"].equal(2 * expected)
    with pytest.raises(ValueError, match=r"'weight' is a tensor of torch.float32 \[23, 2\], expected .* \[24, 2\]$"):
        load_model(table(24), {"model": {}, TABLES: parts})


def test_a_table_grows_from_saved_rows(parts: TableParts) -> None:
    source = torch.tensor([0, DRAWN, 22, 5, 5, DRAWN, 1])
    origins, drawn = RowOrigins(source, torch.tensor([True, False, True, True, False, False, False])), -torch.ones(7, 2)
    rows = SavedRows(parts, "weight")
    whole = rows[torch.arange(ROWS)]
    assert origins.grown(rows, drawn).equal(origins.grown(whole, drawn))
    assert origins.grown(rows, drawn)[:, 0].tolist() == [0, -1, 22, 5, 5, -1, 1]
    assert origins.moved(SavedRows(parts, "weight/sum"), -torch.ones(7, 1)).flatten().tolist() == [
        *(0, -1, 44, 10, -1, -1, -1),
    ]
