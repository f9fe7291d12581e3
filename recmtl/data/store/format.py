"""The files of a prepared dataset: how they are written, read and checked."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc as ipc

from recmtl.data.columns.id_lists import EncodedLists, Ids
from recmtl.errors import DataError
from recmtl.io.files import digest
from recmtl.io.untrusted import from_json, read_text
from recmtl.schema import FittedSchema, Thinning
from recmtl.schema.serialization import FITTED_FILES

FORMAT_VERSION = 11
MANIFEST = "manifest.json"
SPLIT_NAMES = ("train", "valid", "test")
IDS, NUMERIC, LABELS, WEIGHT = "ids", "numeric", "labels", "weight"  # the columns of a split
TASK_WEIGHTS = "task_weights"  # as well, if tasks have weights of their own
LIST_PREFIX = "list:"  # of the columns with the ids of a multi-valued feature
KEY_PREFIX = "key:"  # of the columns that are carried through


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Args:
        files: Size in bytes and SHA-256 of each other file.
        rows: The number of rows of each shard of each split.
        notes: Findings of fitting.
        thinning: How the files were thinned, as plain data; ``None`` if they were not.
        version: The version of the format.
    """

    files: Mapping[str, tuple[int, str]]
    rows: Mapping[str, Sequence[int]]
    notes: Sequence[str]
    thinning: Mapping[str, Any] | None
    version: int = FORMAT_VERSION


def write_manifest(
    folder: Path,
    rows: Mapping[str, Sequence[int]],
    known: Mapping[str, tuple[int, str]],
    notes: Sequence[str],
    thinning: Thinning | None = None,
) -> Manifest:
    """Write `manifest.json` beside the other files, which must be complete; size and SHA-256 of some may be known."""
    names = [*FITTED_FILES, *(shard_file(split, number) for split in rows for number in range(len(rows[split])))]
    files = {name: known.get(name) or file_seal(folder / name) for name in names}
    manifest = Manifest(files, rows, notes, thinning.to_dict() if thinning else None)
    content = asdict(manifest)
    content["sha256"] = _checksum(content)
    (folder / MANIFEST).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read `manifest.json`; check the size of each file it lists, and the checksums of the schema's files."""
    path = folder / MANIFEST
    try:
        content = from_json(read_text(path))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{str(folder)!r} is not a prepared dataset: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    if not isinstance(content, dict) or content.get("version") != FORMAT_VERSION:
        raise DataError(f"{str(folder)!r} was prepared by another version: prepare the data again")
    if content.pop("sha256", None) != _checksum(content):
        raise damaged(path, "its content does not match its checksum")
    manifest = Manifest(**content)
    for name, (size, sha256) in manifest.files.items():
        _check_file(folder / name, size, sha256 if name in FITTED_FILES else None)
    return manifest


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def shard_file(split: str, number: int) -> str:
    """Return the name of the file of a shard of a split."""
    return f"{split}-{number:05}.arrow"


def file_seal(path: Path) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256 of a file."""
    return path.stat().st_size, digest(path)


class WrittenShard(NamedTuple):
    """A file of rows that was written: its rows, size in bytes and SHA-256."""

    rows: int
    size: int
    sha256: str


def write_shards(folder: Path, number: int, batches: Iterable[tuple[str, pa.RecordBatch]]) -> dict[str, WrittenShard]:
    """Write each batch to the file of the shard of its split that has a number; return what was written by split."""
    rows: dict[str, int] = {}
    writers: dict[str, ipc.RecordBatchFileWriter] = {}
    with ExitStack() as stack:
        for split, batch in batches:
            if split not in writers:
                writer = ipc.new_file(str(folder / shard_file(split, number)), batch.schema)
                writers[split], rows[split] = stack.enter_context(writer), 0
            writers[split].write_batch(batch)
            rows[split] += batch.num_rows
    return {split: WrittenShard(count, *file_seal(folder / shard_file(split, number))) for split, count in rows.items()}


def number_shards(
    folder: Path, shards: Iterable[Mapping[str, tuple[int, WrittenShard]]]
) -> tuple[dict[str, list[int]], dict[str, tuple[int, str]]]:
    """Rename the files of shards so that the numbers of a split have no gaps.

    Args:
        folder: The folder of the files.
        shards: The number and the shard of splits, in order.

    Returns:
        The rows of each shard of each split, and the size and SHA-256 of each file.
    """
    rows: dict[str, list[int]] = {}
    seals: dict[str, tuple[int, str]] = {}
    for part in shards:
        for split, (number, shard) in part.items():
            name = shard_file(split, len(rows.setdefault(split, [])))
            (folder / shard_file(split, number)).replace(folder / name)
            rows[split].append(shard.rows)
            seals[name] = shard.size, shard.sha256
    return rows, seals


class _HashingSink(io.RawIOBase):
    """Hashes what is written to it."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.sha256.update(data)
        return memoryview(data).nbytes


def file_digest(table: pa.Table) -> str:
    """Return the SHA-256 of the file to which `write_shards` would write the batches of a table."""
    sink = _HashingSink()
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.sha256.hexdigest()


@dataclass(frozen=True)
class ShardFile:
    """The file of one shard of a split, checked as a whole when it is read: mapped into memory, or held in it."""

    path: Path
    schema: FittedSchema
    num_rows: int
    size: int
    sha256: str
    mapped: bool = True

    def read(self) -> pa.Table:
        """Return the rows; damage, or an id outside its vocabulary, raises `DataError`."""
        _check_file(self.path, self.size, self.sha256)
        try:
            with pa.memory_map(str(self.path)) if self.mapped else pa.OSFile(str(self.path)) as file:
                table = ipc.open_file(file).read_all()
            table.validate(full=True)
            if table.num_rows != self.num_rows:
                raise ValueError(f"it has {table.num_rows:,} rows, expected {self.num_rows:,}")
            check_encoded(table, self.schema)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise damaged(self.path, error) from error
        return table


def check_encoded(table: pa.Table, fitted: FittedSchema) -> None:
    """Check that rows have the columns of a schema, and that every id is an index of its vocabulary."""
    widths = {IDS: (pa.int32(), fitted.id_columns), NUMERIC: (pa.float32(), fitted.numeric_columns)}
    widths[LABELS] = pa.float32(), len(fitted.schema.labels)
    types = {name: pa.list_(kind, width) for name, (kind, width) in widths.items() if width}
    lists = {LIST_PREFIX + block.name: pa.list_(pa.int32()) for block in fitted.list_blocks}
    types = {name: kind for name, kind in types.items() if name == IDS} | lists | types
    types |= {WEIGHT: pa.float32()} if fitted.schema.weight else {}
    own = len(fitted.schema.task_weights)
    types |= {TASK_WEIGHTS: pa.list_(pa.float32(), own)} if own else {}
    names = [*types, *(KEY_PREFIX + key for key in fitted.schema.carried)]
    if table.column_names != names or any(table.schema.field(name).type != types[name] for name in types):
        raise ValueError(f"its columns are {', '.join(map(str, table.schema))}, which are not those of its schema")
    sizes = np.array([block.size for block in fitted.id_blocks if not block.listed], np.int32)
    for chunk in table.column(IDS).chunks if len(sizes) else ():
        _check_ids(to_matrix(chunk), sizes)
    for block in fitted.list_blocks:
        for chunk in table.column(LIST_PREFIX + block.name).chunks:
            _check_ids(chunk.flatten().to_numpy(), np.int32(block.size))
            lengths = pc.fill_null(chunk.value_lengths(), 0).to_numpy(zero_copy_only=False)
            if ((lengths < 1) | (lengths > block.length)).any():
                raise ValueError(f"a list of {block.name!r} has not from 1 to {block.length:,} ids")


def _check_ids(ids: npt.NDArray[Any], sizes: npt.NDArray[Any] | np.int32) -> None:
    if ((ids < 0) | (ids >= sizes)).any():
        raise ValueError("an id is outside its vocabulary")


def to_matrix(column: pa.Array) -> npt.NDArray[Any]:
    """Return the values of a column of fixed-size lists, without a copy, as a matrix ``[rows, width]``."""
    matrix: npt.NDArray[Any] = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return matrix


def from_matrix(matrix: npt.NDArray[Any]) -> pa.FixedSizeListArray:
    """Return a matrix ``[rows, width]`` as a column of fixed-size lists, without a copy if it is row-major."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])


def id_columns(fitted: FittedSchema, ids: Ids, lists: Sequence[EncodedLists]) -> dict[str, pa.Array]:
    """Return encoded ids and lists as columns."""
    columns = {IDS: from_matrix(ids)} if fitted.id_columns else {}
    return columns | {LIST_PREFIX + b.name: from_lists(*own) for b, own in zip(fitted.list_blocks, lists, strict=True)}


def from_lists(values: Ids, lengths: npt.NDArray[np.int64]) -> pa.ListArray:
    """Return lists, given their values one after the other and their lengths, as a column."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def _check_file(path: Path, size: int, sha256: str | None) -> None:
    """Check that a file exists and has its size and, if it is given, its checksum."""
    if not path.is_file():
        raise damaged(path, "it is no file" if path.exists() else "it is missing")
    found = path.stat().st_size
    if found != size:
        raise damaged(path, f"it has {found:,} bytes of {size:,}")
    if sha256 is not None and digest(path) != sha256:
        raise damaged(path, "its content does not match its checksum")


def damaged(path: Path, reason: object) -> DataError:
    """Return the error for a damaged file of a prepared dataset."""
    return DataError(f"{path} is damaged, prepare the data again: {' '.join(str(reason).split())}")
