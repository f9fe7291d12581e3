"""Write rows as a file in the format of its suffix."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from recmtl.errors import DataError
from recmtl.io.files import new_file
from recmtl.io.formats import CSV, IPC, PARQUET, SUFFIXES

WRITTEN = {**SUFFIXES, ".csv": CSV}


def check_suffix(path: Path) -> str:
    """Return the format that the suffix of a file to write names.

    Raises:
        DataError: The suffix is not known.
    """
    if path.suffix.lower() not in WRITTEN:
        raise DataError(f"{str(path)!r} names no format: give it one of the suffixes {', '.join(WRITTEN)}")
    return WRITTEN[path.suffix.lower()]


class TableWriter:
    """Writes tables one after the other into a file, which appears when it is complete.

    Args:
        path: The file; its suffix names the format. A Parquet file has page checksums.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._format = path, check_suffix(path)
        self._writer: Any = None

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._partial = self._stack.enter_context(new_file(self._path))
        return self

    def write(self, table: pa.Table) -> None:
        """Write the rows of a table; all tables have the same columns."""
        if self._writer is None:
            self._writer = self._stack.enter_context(self._open(table.schema))
        self._writer.write_table(table)

    def _open(self, schema: pa.Schema) -> Any:
        if self._format == PARQUET:
            return pq.ParquetWriter(self._partial, schema, write_page_checksum=True)
        sink = str(self._partial)
        return ipc.new_file(sink, schema) if self._format == IPC else pacsv.CSVWriter(sink, schema)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
