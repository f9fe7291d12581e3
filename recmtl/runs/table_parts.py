"""Tables as files: each process writes its part by `torch.distributed.checkpoint`, any number of them read it."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from recmtl.balance import ProcessGroup
from recmtl.balance.distributed import SINGLE_PROCESS, explain_lost_rank
from recmtl.errors import RunError
from recmtl.io.files import digest, fsync
from recmtl.io.machine import explain_oom

PIECE = 1 << 26  # bytes of a table that are written and read at once
METADATA = ".metadata"  # of torch.distributed.checkpoint: which rows stand where
METADATA_CLASSES = {
    "torch": {"Size", "float64", "float32", "float16", "bfloat16", "int64", "int32"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        *("Metadata", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
        *("StorageMeta", "_MEM_FORMAT_ENCODING"),
    },
}


@dataclass(frozen=True)
class TableParts:
    """Tables in a folder, in the format of `torch.distributed.checkpoint`, and the checksums of its files.

    A table is a `DTensor` whose rows are spread over processes in contiguous chunks, or a plain tensor of a process
    alone. It is read by any number of processes, each of which reads the rows that it asks for.

    Args:
        folder: The folder.
        checksums: The SHA-256 of each file by name.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> parts = TableParts.write(folder, {"weight": torch.arange(6.0).view(3, 2)})
        >>> parts.forms["weight"].shape
        torch.Size([3, 2])
        >>> for start, rows in parts.blocks("weight"):
        ...     print(start, rows.tolist())
        0 [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    """

    folder: Path
    checksums: Mapping[str, str]

    @classmethod
    def write(cls, folder: Path | None, tables: Mapping[str, Tensor], processes: ProcessGroup = SINGLE_PROCESS) -> Self:
        """Write tables, each process its part of them; all processes call it with the same names.

        Args:
            folder: An empty folder that all processes see, as the first process names it.
            tables: The tables by name.
            processes: The processes that have the parts.

        Raises:
            RunError: A process could not write its part, or wrote it where the first one does not see it.
        """
        path = processes.broadcast_object(folder)
        assert path is not None
        try:
            with explain_lost_rank(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a process alone is one
                save(
                    dict(tables),
                    storage_writer=FileSystemWriter(path),
                    planner=_InPieces(flatten_state_dict=False),
                    process_group=processes.group,
                )
        except CheckpointException as error:
            rank, (cause, _) = min(error.failures.items())
            who = f" by process {rank} of {processes.size}" if processes.size > 1 else ""
            unseen = f": {SHARED_DISK}" if isinstance(cause, FileNotFoundError) else ""
            raise RunError(f"the tables in {path} cannot be written{who}: {_reason(cause)}{unseen}") from cause
        own = {file.name: digest(file) for file in path.glob(f"__{processes.rank}_*")}
        if processes.first:
            own[METADATA] = digest(path / METADATA)
        fsync(path)  # before the others know: the first process may then rename it
        checksums = dict(item for found in processes.all_gather_object(own) for item in found.items())
        parts = cls(path, checksums)
        for name in checksums if processes.first else ():
            if not (path / name).is_file():
                raise RunError(f"{path / name}, which another process wrote, is not there: {SHARED_DISK}")
        return parts

    @classmethod
    def of_state(cls, folder: Path, checksums: Any) -> Self:
        """Return the tables in a folder by checksums that were read from a file; raise a `ValueError` if none are."""
        if not (isinstance(checksums, dict) and all(isinstance(name, str) for name in checksums)):
            raise ValueError("expected the checksums of tables")
        if METADATA not in checksums or any(Path(name).name != name for name in checksums):
            raise ValueError("expected the checksums of the parts of tables")
        return cls(folder, checksums)

    def damage(self, processes: ProcessGroup = SINGLE_PROCESS) -> str | None:
        """Return a sentence on a damaged or missing file; several processes each check their share of the files.

        Raises:
            RunError: A process does not see the folder, which the first one does.
        """
        own = sorted(self.checksums)[processes.rank :: processes.size]
        found = next(filter(None, map(self._damage_of, own)), None)
        seen, damages = zip(*processes.all_gather_object((self.folder.is_dir(), found)), strict=True)
        if seen[0] and not all(seen):
            raise RunError(f"process {seen.index(False)} of {len(seen)} does not see {self.folder}: {SHARED_DISK}")
        return next(filter(None, damages), None)

    def _damage_of(self, name: str) -> str | None:
        path = self.folder / name
        if not path.is_file():
            return f"the part {path} of the tables is missing"
        if digest(path) != self.checksums[name]:
            return f"the part {path} of the tables is damaged: its content does not match its checksum"
        return None

    def check(self, processes: ProcessGroup = SINGLE_PROCESS) -> None:
        """Check all files, each process its share; a damaged or missing one is a `RunError` in all processes."""
        if damage := self.damage(processes):
            raise RunError(damage)

    @property
    def forms(self) -> dict[str, Tensor]:
        """The tables by name as tensors of their sizes and types, without data."""
        found = self._tables.items()
        return {name: torch.empty(t.size, dtype=t.properties.dtype, device="meta") for name, t in found}

    def check_forms(self, tables: Mapping[str, Tensor]) -> None:
        """Raise a `ValueError` unless there are tables of these names, sizes and types."""
        forms = self.forms
        for name, table in tables.items():
            found = forms.get(name)
            if found is None or (found.shape, found.dtype) != (table.shape, table.dtype):
                is_there = "missing" if found is None else f"a tensor of {found.dtype} {list(found.shape)}"
                raise ValueError(f"{name!r} is {is_there}, expected a tensor of {table.dtype} {list(table.shape)}")

    def load(self, tables: Mapping[str, Tensor]) -> None:
        """Fill tables in place; each process fills its own part of a `DTensor`, without the others.

        Raises:
            ValueError: There is no table of that name, size and type.
        """
        self.check_forms(tables)
        self._read({name: _Rows(*own_rows(table)) for name, table in tables.items()})

    def blocks(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """Yield the number of a first row and the rows from there on, until all rows of a table were read."""
        for chunk in self._chunks(name):
            yield chunk.offsets[0], self._chunk(name, chunk)

    def rows(self, name: str, numbers: Tensor) -> Tensor:
        """Return rows of a table by their numbers, ``[n]`` to ``[n, …]``, reading one piece of it at a time."""
        rising, order = numbers.sort()
        form = self.forms[name]
        found = torch.empty((len(numbers), *form.shape[1:]), dtype=form.dtype)
        for chunk in self._chunks(name):
            bounds = torch.tensor([chunk.offsets[0], chunk.offsets[0] + chunk.sizes[0]])
            start, stop = torch.searchsorted(rising, bounds).tolist()
            if start < stop:
                found[order[start:stop]] = self._chunk(name, chunk)[rising[start:stop] - chunk.offsets[0]]
        return found

    def _chunks(self, name: str) -> list[ChunkStorageMetadata]:
        return sorted(self._tables[name].chunks, key=lambda chunk: chunk.offsets[0])

    def _chunk(self, name: str, chunk: ChunkStorageMetadata) -> Tensor:
        rows = torch.empty(chunk.sizes, dtype=self._tables[name].properties.dtype)
        self._read({name: _Rows(chunk.offsets[0], rows)})
        return rows

    def _read(self, wanted: Mapping[str, _Rows]) -> None:
        """Read ranges of rows; the planner and the reader are those of `load`, without its messages."""
        reader, planner = FileSystemReader(self.folder), _Ranges(wanted, self._metadata)
        reader.set_up_storage_reader(self._metadata, is_coordinator=True)
        try:
            with explain_oom(f"tables of {self.folder}"):
                reader.read_data(planner.create_local_plan(), planner).wait()
        except (OSError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
            raise RunError(f"the tables in {self.folder} cannot be read: {_reason(error)}") from error

    @property
    def _tables(self) -> dict[str, TensorStorageMetadata]:
        found = self._metadata.state_dict_metadata
        return {name: table for name, table in found.items() if isinstance(table, TensorStorageMetadata)}

    @cached_property
    def _metadata(self) -> Metadata:
        """Which rows stand where, read without executing code."""
        path = self.folder / METADATA
        try:
            with path.open("rb") as file:
                metadata = _MetadataUnpickler(file).load()
            if not {info.relative_path for info in metadata.storage_data.values()} <= set(self.checksums):
                raise ValueError("it names files without a checksum")
        except FileNotFoundError as error:
            raise RunError(f"the part {path} of the tables is missing: {SHARED_DISK}") from error
        except Exception as error:  # a pickle that is damaged raises many kinds
            raise RunError(f"the part {path} of the tables is damaged: {error}") from error
        assert isinstance(metadata, Metadata)
        return metadata


SHARED_DISK = "put the run folder on a disk that all processes see"


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if "inline_container" in str(error):  # torch's error for a failed write
        return "is the disk full?"
    return " ".join(str(error).partition("\n")[0].split()) or type(error).__name__


class _MetadataUnpickler(pickle.Unpickler):
    """Reads the metadata of `torch.distributed.checkpoint`, and builds nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("pathlib") and name.endswith("Path"):
            return PurePath  # also one of another system
        if name in METADATA_CLASSES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, expected where the rows of tables stand")


@dataclass(frozen=True)
class _Rows:
    """Rows of a table from a first one on."""

    start: int
    rows: Tensor


def own_rows(table: Tensor) -> tuple[int, Tensor]:
    """Return the number of the first row of a table that this process has, and its rows."""
    if not isinstance(table, DTensor):
        return 0, table.detach()
    (chunk,) = table.__create_chunk_list__()  # type: ignore[no-untyped-call]
    return chunk.offsets[0], table.to_local().detach()


class _InPieces(DefaultSavePlanner):
    """Cuts the rows that a process has into pieces, so that a reader holds one piece at a time."""

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        self.plan = replace(plan, items=[piece for item in plan.items for piece in _pieces(item)])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Tensor:
        start, rows = own_rows(self.state_dict[index.fqn])
        (item,) = (item for item in self.plan.items if item.index == index)
        assert item.tensor_data is not None
        assert index.offset is not None
        return rows.narrow(0, index.offset[0] - start, item.tensor_data.chunk.sizes[0])


def _pieces(item: WriteItem) -> Iterator[WriteItem]:
    data = item.tensor_data
    assert data is not None
    offsets, sizes = data.chunk.offsets, data.chunk.sizes
    most = max(1, PIECE // max(1, sizes[1:].numel() * data.properties.dtype.itemsize))
    for start in range(0, sizes[0], most):
        chunk = ChunkStorageMetadata(
            torch.Size((offsets[0] + start, *offsets[1:])), torch.Size((min(most, sizes[0] - start), *sizes[1:]))
        )
        index = MetadataIndex(item.index.fqn, chunk.offsets)
        yield WriteItem(index, WriteItemType.SHARD, tensor_data=replace(data, chunk=chunk))


class _Ranges(DefaultLoadPlanner):
    """Plans to read ranges of the rows of tables."""

    def __init__(self, wanted: Mapping[str, _Rows], metadata: Metadata) -> None:
        super().__init__(flatten_state_dict=False)
        self._wanted = wanted
        self.set_up_planner({name: part.rows for name, part in wanted.items()}, metadata, is_coordinator=True)

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        items = []
        for name, part in self._wanted.items():
            table = self.metadata.state_dict_metadata[name]
            assert isinstance(table, TensorStorageMetadata)
            offsets = torch.Size((part.start, *(0 for _ in part.rows.shape[1:])))
            items += create_read_items_for_chunk_list(name, table, [ChunkStorageMetadata(offsets, part.rows.shape)])
        return LoadPlan(items)

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self._wanted[index.fqn].rows
