"""The file of a split: Arrow in blocks of equal numbers of rows, each with a checksum that is compared at its use."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc

from recmtl.data.store.validation import RowValidator
from recmtl.errors import DataError
from recmtl.io.untrusted import read_plain
from recmtl.schema import FittedSchema

BLOCK_ROWS = 4096  # of a file that are written, checked and shuffled together
ADVICE = "prepare the data again"

Blocks = Sequence[tuple[int, int]]  # where each block of a file ends, and its CRC-32; what ends the file is the last


class ShardWriter:
    """Writes rows to a file; a block reaches it as soon as it is full.

    Args:
        path: The file.
        schema: The columns.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = _SummedFile(path)
        self._writer = ipc.new_file(pa.PythonFile(self._file), schema)
        self._held: list[pa.RecordBatch] = []
        self._open = BLOCK_ROWS  # rows that the block still takes
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self.rows += batch.num_rows
        while batch.num_rows:
            part = batch.slice(0, self._open)
            self._held.append(part)
            batch, self._open = batch.slice(part.num_rows), self._open - part.num_rows
            if not self._open:
                self._end_block()

    def _end_block(self) -> None:
        (block,) = pa.Table.from_batches(self._held).combine_chunks().to_batches()
        self._writer.write_batch(block)
        self._file.end_block()
        self._held, self._open = [], BLOCK_ROWS

    def finish(self) -> Blocks:
        """Write what is left and give the blocks."""
        if self._held:
            self._end_block()
        self._writer.close()
        self._file.end_block()
        self._file.flush()
        return self._file.blocks

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


class _SummedFile(io.BufferedWriter):
    """A file that sums up what is written to it, block by block."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "w"))
        self.blocks: list[tuple[int, int]] = []
        self._end = self._sum = 0

    def write(self, data: Any) -> int:
        self._sum = zlib.crc32(data, self._sum)
        self._end += len(data)
        return super().write(data)

    def end_block(self) -> None:
        self.blocks.append((self._end, self._sum))
        self._sum = 0


class Shard:
    """The rows in a file, mapped into memory; a block is checked before it is used for the first time.

    Args:
        path: The file.
        schema: The fitted schema that encoded them.
        rows: How many there must be.
        blocks: As `ShardWriter` gave them.

    Raises:
        DataError: The file is missing, has another size, or its columns are not those of the schema.
    """

    def __init__(self, path: Path, schema: FittedSchema, rows: int, blocks: Blocks) -> None:
        self.path, self._blocks, self._admitted = path, blocks, RowValidator(schema)
        ends = [0, *(end for end, _ in blocks)]
        count = len(blocks) - 1
        if count != -(-rows // BLOCK_ROWS) or ends != sorted(ends):
            raise self._damaged("its blocks are not those of its rows")
        check_size(path, ends[-1])
        if rows * self._admitted.row_bytes > ends[-1]:
            raise self._damaged(f"{ends[-1]:,} bytes do not hold {rows:,} rows")
        try:
            with pa.memory_map(str(path)) as file:
                content = file.read_buffer()
                self._bytes = memoryview(content)
                self._checked = np.zeros(count + 1, np.bool_)
                self._check_sum(count)
                columns, batches = read_plain(content, "it")
                self._admitted.check_columns(columns)
                self.table = pa.Table.from_batches(list(batches), columns)
                self.table.validate()
        except (OSError, pa.ArrowException, ValueError) as error:
            raise error if isinstance(error, DataError) else self._damaged(" ".join(str(error).split())) from error
        lengths = [len(chunk) for chunk in self.table.column(0).chunks]
        if self.table.num_rows != rows or lengths[:-1] != [BLOCK_ROWS] * (count - 1):
            raise self._damaged(f"it has {self.table.num_rows:,} rows, expected {rows:,}")

    def check(self, spans: Sequence[tuple[int, int]]) -> None:
        """Check the blocks that hold rows, those that were not yet.

        Args:
            spans: Where the rows begin and end, span after span.

        Raises:
            DataError: A block is not what was written, or holds what its columns cannot.
        """
        wanted = np.zeros_like(self._checked)
        for start, end in spans:
            wanted[start // BLOCK_ROWS : -(-end // BLOCK_ROWS)] = True
        blocks = np.flatnonzero(wanted & ~self._checked).tolist()
        if blocks:
            with ThreadPoolExecutor() as pool:
                list(pool.map(self._check_block, blocks))

    def _check_block(self, block: int) -> None:
        self._check_sum(block)
        start = block * BLOCK_ROWS
        batches = self.table.slice(start, BLOCK_ROWS).to_batches()
        fault = self._admitted.fault(batches[0]) if len(batches) == 1 else "columns have other numbers of rows"
        if fault:
            raise DataError(f"{self.path} cannot be used: among its rows from {start + 1:,} on, {fault}")
        self._checked[block] = True

    def _check_sum(self, block: int) -> None:
        start, (end, expected) = self._blocks[block - 1][0] if block else 0, self._blocks[block]
        if zlib.crc32(self._bytes[start:end]) != expected:
            raise self._damaged(f"bytes {start:,} to {end:,} have changed since they were written")

    def _damaged(self, how: str) -> DataError:
        return DataError(f"{self.path} is damaged, {ADVICE}: {how}")


def check_size(path: Path, size: int) -> None:
    """Check that a file of a prepared dataset is there and as large as it was.

    Raises:
        DataError: It is not.
    """
    if not path.is_file():
        raise DataError(f"{path} is damaged, {ADVICE}: {'it is no file' if path.exists() else 'it is missing'}")
    found = path.stat().st_size
    if found != size:
        raise DataError(f"{path} is damaged, {ADVICE}: it has {found:,} bytes of {size:,}")
