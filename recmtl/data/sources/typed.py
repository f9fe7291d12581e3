"""Rows that have types of their own: tables in memory, Parquet files and Arrow IPC files."""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from recmtl.data.sources.base import PartMap, Source, without_blank_names
from recmtl.io.formats import index_columns, plain_batch, without_nulls
from recmtl.io.location import Location
from recmtl.schema.text_format import PLAIN_TEXT, TextFormat

FRAME_ROWS = 1 << 14  # of tables in memory and Parquet files: their columns fit in a cache
DIGEST_BLOCKS, DIGEST_ROWS = 64, 1 << 10  # of which a digest is taken, evenly spaced


class TypedSource(Source):
    """Rows that have types of their own; words for a missing value are null in text."""

    def __init__(self, name: str, schema: pa.Schema, text: TextFormat = PLAIN_TEXT) -> None:
        self.name, self._nulls = name, text.null_words
        self.columns, self.index = without_blank_names(schema.names), index_columns(schema)
        self.unnamed = schema.names.count("")

    @abstractmethod
    def _read(self, columns: list[str]) -> Iterable[pa.RecordBatch]:
        """Yield some columns of the rows."""

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: object = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows with their own types."""
        for batch in self._read(list(columns)):
            yield without_nulls(plain_batch(batch), self._nulls, numbers)


class TableSource(TypedSource):
    """A table in memory."""

    def __init__(self, table: pa.Table, name: str, text: TextFormat = PLAIN_TEXT) -> None:
        super().__init__(name, table.schema, text)
        self._table, self.digest, self.size = table, partial(table_digest, table), table.nbytes

    def _read(self, columns: list[str]) -> Iterable[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = self._table.select(columns).combine_chunks().to_batches(FRAME_ROWS)
        return batches


def table_digest(table: pa.Table) -> str:
    """Return a hash of the rows of a table: of evenly spaced blocks if there are many."""
    found = hashlib.sha256(f"{table.num_rows} {table.schema.names}".encode())
    last = max(0, table.num_rows - DIGEST_ROWS)
    for block in range(DIGEST_BLOCKS if last else 1):
        rows = table.slice(last * block // (DIGEST_BLOCKS - 1), DIGEST_ROWS)
        found.update(repr(rows.to_pydict()).encode())
    return found.hexdigest()


class BlockSource(TypedSource):
    """A file of blocks of rows: row groups, or batches."""

    portable = True

    def __init__(self, location: Location, text: TextFormat = PLAIN_TEXT) -> None:
        self._location, self.size = location, location.size
        self._first_block, self._end_block, self._first_row = 0, 1 << 62, 0
        super().__init__(location.name, self._schema(), text)

    @abstractmethod
    def _schema(self) -> pa.Schema:
        """Return the columns of the file."""

    @abstractmethod
    def _sizes(self) -> list[tuple[int, int]]:
        """Return the rows and bytes of each block of the file."""

    def cut(self, size: int, work: PartMap = map) -> Sequence[Source]:
        """Return pieces of whole blocks; a file of no more than so many bytes is one."""
        if self.size <= size:
            return [self]
        blocks, pieces, begin, row = self._sizes(), list[Source](), 0, 0
        for end in range(1, len(blocks) + 1):
            if end == len(blocks) or sum(more for _, more in blocks[begin : end + 1]) > size:
                piece = copy.copy(self)
                piece._first_block, piece._end_block, piece._first_row = begin, end, row
                piece.rows, piece.size = (sum(counts) for counts in zip(*blocks[begin:end], strict=True))
                pieces.append(piece)
                begin, row = end, row + sum(rows for rows, _ in blocks[begin:end])
        return pieces or [self]

    def place(self, row: int) -> str:
        """Return the file and the row of a row."""
        return super().place(self._first_row + row)


class ParquetSource(BlockSource):
    """A Parquet file; the checksums of its pages are verified if it has any."""

    def _open(self) -> pq.ParquetFile:
        place = self._location
        file = pa.memory_map(place.path) if place.on_disk else place.path
        return pq.ParquetFile(
            file, filesystem=None if place.on_disk else place.filesystem, page_checksum_verification=True
        )

    def _schema(self) -> pa.Schema:
        with self._open() as file:
            self.rows = file.metadata.num_rows
            self.size = sum(size for _, size in _sizes_of_groups(file))
            return file.schema_arrow

    def _sizes(self) -> list[tuple[int, int]]:
        with self._open() as file:
            return _sizes_of_groups(file)

    def _read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self._open() as file:
            groups = range(self._first_block, min(self._end_block, file.num_row_groups))
            for batch in file.iter_batches(FRAME_ROWS, row_groups=groups, columns=columns, use_threads=False):
                yield batch.select(columns)


def _sizes_of_groups(file: pq.ParquetFile) -> list[tuple[int, int]]:
    """Return the rows of each row group, and its bytes before compression."""
    groups = (file.metadata.row_group(number) for number in range(file.num_row_groups))
    return [(group.num_rows, group.total_byte_size) for group in groups]


class ArrowSource(BlockSource):
    """An Arrow IPC file (also called Feather)."""

    def _schema(self) -> pa.Schema:
        with self._location.file() as file:
            return ipc.open_file(file).schema

    def _sizes(self) -> list[tuple[int, int]]:
        with self._location.file() as file:
            reader = ipc.open_file(file)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            return [(batch.num_rows, batch.get_total_buffer_size()) for batch in batches]

    def _read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with self._location.file() as file:
            reader = ipc.open_file(file)
            for number in range(self._first_block, min(self._end_block, reader.num_record_batches)):
                batch = reader.get_batch(number).select(columns)
                batch.validate(full=True)  # offsets and dictionary codes of a damaged file may be out of range
                yield batch
