"""Parsed rows kept in a temporary file, so that a text file is parsed once however often it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc

from recmtl.data.errors import BadValueError, DataError
from recmtl.data.sources import Source


class Spooled(Source):
    """A source whose first whole reading is written to a file, from which the later ones come.

    Args:
        source: The source; every reading must ask for the same columns.
        path: The file to write, an Arrow stream of the parsed columns.
    """

    def __init__(self, source: Source, path: Path) -> None:
        self.name, self.columns = source.name, source.columns
        self._source, self._path = source, path
        self._whole = False

    def batches(self, columns: Sequence[str], numbers: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Stream the rows, as the source gives them."""
        if self._whole:
            with pa.memory_map(str(self._path)) as file, ipc.open_stream(file) as reader:
                yield from reader
            return
        writer: ipc.RecordBatchStreamWriter | None = None
        try:
            for batch in self._source.batches(columns, numbers):
                writer = writer or ipc.new_stream(str(self._path), batch.schema)
                writer.write_batch(batch)
                yield batch
        finally:
            if writer:
                writer.close()
        self._whole, self.notes = writer is not None, self._source.notes

    def fault(self, bad: BadValueError, offset: int) -> DataError:
        """Say where a bad value stands, in the words of the source."""
        return self._source.fault(bad, offset)

    def place(self, row: int) -> str:
        """Name a row in the words of the source."""
        return self._source.place(row)
