"""Tables that are spread over processes, as files: written by some, read by others, and damaged."""

import errno
import os
import pickle
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from together import together
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from recmtl.balance import ProcessGroup
from recmtl.errors import RunError
from recmtl.runs import table_parts
from recmtl.runs.checkpoint_file import CHECKPOINT, TABLES, read_checkpoint, replace_checkpoint
from recmtl.runs.checkpoints import Checkpoints, is_intact
from recmtl.runs.folder import BEST, RunFolder
from recmtl.runs.table_parts import METADATA, TableParts

# The last of three processes owns a row of the table of 5, and none of that of 4.
SIZES = {"a/b.weight": (37, 3), "moment": (5,), "few": (4, 2)}


DAMAGED = "is damaged: its content does not match its checksum"


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
    assert parts.sizes == {name: torch.Size(size) for name, size in SIZES.items()}
    parts.check()
    found = {name: torch.zeros_like(table) for name, table in tables.items()}
    parts.load(found)
    for name, table in tables.items():
        assert found[name].equal(table)
        blocks = dict(parts.blocks(name))
        assert max(rows.nbytes for rows in blocks.values()) <= 64
        assert torch.cat(list(blocks.values())).equal(table)
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
        parts.sizes  # noqa: B018
    assert not (tmp_path / "executed").exists()


def test_checksums_are_those_of_files_beside(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected the checksums"):
        TableParts.of_state(tmp_path, {METADATA: "", "../../other": ""})


def spread(processes: ProcessGroup, name: str, table: Tensor) -> Tensor:
    """The rows of a table that this process owns, as the trainer would have it."""
    if processes.size == 1:
        return table
    rows = -(-len(table) // processes.size)
    mesh = init_device_mesh("cpu", (processes.size,))
    own = table[rows * processes.rank : rows * (processes.rank + 1)].clone()
    return DTensor.from_local(own, mesh, [Shard(0)], shape=table.shape, stride=table.stride(), run_check=False)


def saved(processes: ProcessGroup, folder: Path) -> None:
    table_parts.PIECE = 64
    tables = {name: spread(processes, name, table) for name, table in whole_tables().items()}
    run = RunFolder(folder) if processes.first else None
    replace_checkpoint(run.checkpoint(BEST).parent if run else None, {"epoch": 1}, tables, processes)
    checkpoints = Checkpoints(run, processes=processes)
    for step in (4, 8):
        moved = {name: table + step for name, table in tables.items()}
        checkpoints.save(step, {"watch": {"best": 0.5}, "step": step}, moved, best=True)
    if processes.rank == 1:
        table_parts.FileSystemWriter.write_data = full  # in this process, which ends with this function
    with pytest.raises(RunError, match=r"cannot be written by process 1 of 2: No space left on device$"):
        checkpoints.save(9, {}, tables, best=True)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "")


def restored(processes: ProcessGroup, folder: Path) -> tuple[int, list[str], dict[str, Any]]:
    """The step, the notes, and the rows that this process reads of the state and of the best weights."""
    notes: list[str] = []
    run = RunFolder(folder) if processes.first else None
    state = Checkpoints(run, processes=processes).restore(notes.append)
    best = read_checkpoint(RunFolder(folder).checkpoint(BEST))[TABLES]
    assert state is not None
    tables = [{n: spread(processes, n, torch.zeros_like(t)) for n, t in whole_tables().items()} for _ in range(2)]
    state[TABLES].load(tables[0])
    best.load(tables[1])
    own = [{n: t.to_local() if isinstance(t, DTensor) else t for n, t in found.items()} for found in tables]
    return state["step"], notes, {n: (own[0][n], own[1][n]) for n in own[0]}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def damaged(folder: Path, other: Path, name: str, damage: Callable[[Path], None]) -> Path:
    """A copy of a run folder with a damaged file in its newest checkpoint."""
    shutil.copytree(folder, other)
    path = RunFolder(other).steps()[8] / name
    damage(path)
    return path


@pytest.mark.slow
def test_two_write_three_read_and_one_reads(tmp_path: Path) -> None:
    """A checkpoint is restored by any number of processes; if a part is damaged or missing, the one before it."""
    folder = tmp_path / "run"
    together(2, tmp_path / "2", saved, folder)
    steps = RunFolder(folder).steps()
    assert list(steps) == [4, 8]  # no trace of the one that a process could not write
    assert not list(folder.rglob(".*.partial"))
    assert {str(file.relative_to(steps[8])) for file in steps[8].rglob("*") if file.is_file()} == {
        *("checkpoint.pt", "tables/.metadata", "tables/__0_0.distcp", "tables/__1_0.distcp", "best/checkpoint.pt"),
        *("best/tables/.metadata", "best/tables/__0_0.distcp", "best/tables/__1_0.distcp"),
    }
    of_three = together(3, tmp_path / "3", restored_twice, folder, tmp_path / "damaged")
    of_one = restored(ProcessGroup(), folder)
    for number, (step, said) in enumerate([(8, None), (4, "__1_0.distcp of the tables is missing; an older")]):
        several = [found[number] for found in of_three]
        assert [found[0] for found in several] == [step] * 3
        assert [len(found[1]) for found in several] == [0 if said is None else 1, 0, 0]
        assert said is None or said in several[0][1][0]
        for name, table in whole_tables().items():
            for place, expected in enumerate([table + step, table]):
                assert torch.cat([found[2][name][place] for found in several]).equal(expected)
                assert number or of_one[2][name][place].equal(expected)
    assert is_intact(steps[8])
    for name in ("tables/__0_0.distcp", "tables/.metadata", "best/tables/__1_0.distcp"):
        other = tmp_path / name.replace("/", "-")
        path = damaged(folder, other, name, flip)
        assert not is_intact(RunFolder(other).steps()[8])
        step, notes, tables = restored(ProcessGroup(), other)
        assert step == 4
        assert notes == [f"the part {path} of the tables {DAMAGED}; an older one is looked for"]
        assert tables["few"][0].equal(whole_tables()["few"] + 4)


def restored_twice(processes: ProcessGroup, folder: Path, other: Path) -> list[Any]:
    found = restored(processes, folder)
    if processes.first:
        damaged(folder, other, "tables/__1_0.distcp", Path.unlink)
    processes.all_gather_object(None)
    return [found, restored(processes, other)]
