"""Tables that are spread over processes, as files: written by some, read by others, and damaged."""

import os
import pickle
import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from recmtl.balance import ProcessGroup
from recmtl.errors import RunError
from recmtl.runs import table_parts
from recmtl.runs.checkpoint_file import CHECKPOINT, TABLES, read_checkpoint, replace_checkpoint
from recmtl.runs.checkpoints import read_intact
from recmtl.runs.folder import BEST, RunFolder
from recmtl.runs.table_parts import METADATA, TableParts
from recmtl.train.best_weights import BestWeights

SIZES = {"a/b.weight": (37, 3), "moment": (5,), "few": (4, 2)}


def whole_tables(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    return {name: torch.arange(torch.Size(size).numel(), dtype=dtype).view(size) for name, size in SIZES.items()}


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_parts, "PIECE", 64)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
def test_a_process_alone_reads_what_it_wrote(dtype: torch.dtype, tmp_path: Path) -> None:
    tables = whole_tables(dtype)
    replace_checkpoint(tmp_path, {"step": 3}, tables)
    parts = read_checkpoint(tmp_path / CHECKPOINT)[TABLES]
    assert {name: form.shape for name, form in parts.forms.items()} == SIZES
    parts.check()
    found = {name: torch.zeros_like(table) for name, table in tables.items()}
    parts.load(found)
    for name, table in tables.items():
        assert found[name].equal(table)
        blocks = dict(parts.blocks(name))
        assert max(rows.nbytes for rows in blocks.values()) <= 64
        assert torch.cat(list(blocks.values())).equal(table)
        numbers = torch.tensor([3, 0, 2, 3])
        assert parts.rows(name, numbers).equal(table[numbers])
        assert list(blocks) == [0, *torch.tensor([len(rows) for rows in blocks.values()]).cumsum(0).tolist()][:-1]


def test_a_full_disk_is_said_to_be_full(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"the tables in .* cannot be written: (is the disk full\?|File too large)$"):
            replace_checkpoint(tmp_path / "best", {}, {"weight": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


class First(ProcessGroup):
    """The first of two processes; what the second one says is given."""

    def __init__(self, said: Any) -> None:
        super().__init__()
        self.size, self._said = 2, said

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value, self._said]


def test_a_process_that_does_not_see_the_folder_is_named(tmp_path: Path) -> None:
    """Its tables are not damaged."""
    parts = TableParts.write(tmp_path, whole_tables())
    missing = "the part … of the tables is missing"
    with pytest.raises(RunError, match=f"^process 1 of 2 does not see {tmp_path}: put the run folder on a disk that"):
        parts.damage(First((False, missing)))
    assert parts.damage(First((True, missing))) == missing


@pytest.mark.parametrize("spread", [{"state"}, {"best"}, {"state", "best"}, set()])
def test_the_best_weights_may_have_tables_in_parts_where_the_state_has_whole_ones(
    spread: set[str], tmp_path: Path
) -> None:
    """As in runs that are resumed with another `shard_tables`; a best file that is damaged is found in any of them."""
    step, tables = tmp_path / "step", {"state": {}, "best": {}} | dict.fromkeys(spread, whole_tables())
    replace_checkpoint(step, {"watch": {"best": 1}}, tables["state"])
    replace_checkpoint(step / BEST, {"model": {}}, tables["best"])
    _, parts = read_intact(step)
    assert [found.folder for found in parts] == [
        folder / TABLES for name, folder in (("state", step), ("best", step / BEST)) if name in spread
    ]
    flip(step / BEST / CHECKPOINT)
    with pytest.raises(RunError, match=r"best/checkpoint.pt is damaged: its content does not match its checksum"):
        read_intact(step)


def test_a_process_that_loads_the_best_weights_alone_waits_for_no_other(tmp_path: Path) -> None:
    """A run with spread tables that is resumed with whole ones, and ends without better weights."""
    folder, loaded = RunFolder(tmp_path), []
    replace_checkpoint(folder.checkpoint(BEST).parent, {"model": {}}, whole_tables())
    setup = SimpleNamespace(
        run=SimpleNamespace(folder=tmp_path),
        folder=folder,
        model=torch.nn.Linear(1, 1),
        device="cpu",
        processes=First("which is never heard"),
        load_weights=lambda state, path: loaded.append(state),
    )
    BestWeights(setup).load()  # type: ignore[arg-type]
    assert loaded[0][TABLES].forms.keys() == SIZES.keys()


def test_tables_of_another_kind_are_refused(tmp_path: Path) -> None:
    parts = TableParts.write(tmp_path, whole_tables())
    with pytest.raises(ValueError, match=r"'few' is a tensor of torch.float64 \[4, 2\], expected .* \[5, 2\]"):
        parts.load({"few": torch.zeros(5, 2, dtype=torch.float64)})
    with pytest.raises(ValueError, match=r"'few' is a tensor of torch.float64 \[4, 2\], expected .*float32"):
        parts.load({"few": torch.zeros(4, 2)})
    with pytest.raises(ValueError, match="'more' is missing, expected a tensor"):
        parts.load({"more": torch.zeros(4, 2)})


def test_metadata_executes_no_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    parts = TableParts.write(tmp_path, whole_tables())
    (tmp_path / METADATA).write_bytes(pickle.dumps(Attack()))
    with pytest.raises(RunError, match=r"is damaged: it holds \w+.mkdir, expected where the rows of tables stand"):
        parts.forms  # noqa: B018
    assert not (tmp_path / "executed").exists()


def test_checksums_are_those_of_files_beside(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the checksums"):
        TableParts.of_state(tmp_path, {METADATA: "", "../../other": ""})


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    parts = TableParts.write(tmp_path, whole_tables())
    assert sorted(parts.checksums) == [METADATA, "__0_0.distcp"]
    for name in parts.checksums:
        content = (tmp_path / name).read_bytes()
        flip(tmp_path / name)
        with pytest.raises(RunError, match=f"the part {tmp_path / name} of the tables is damaged: its content"):
            parts.check()
        (tmp_path / name).unlink()
        with pytest.raises(RunError, match=f"the part {tmp_path / name} of the tables is missing$"):
            parts.check()
        (tmp_path / name).write_bytes(content)
    parts.check()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
