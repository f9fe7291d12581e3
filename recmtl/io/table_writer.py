"""Write rows as a file in the format of its suffix."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from recmtl.errors import DataError
from recmtl.io.formats import CSV, IPC, PARQUET, SUFFIXES
from recmtl.io.location import public_name
from recmtl.io.output import new_output

WRITTEN = {**SUFFIXES, ".csv": CSV}


def check_suffix(place: str | Path) -> str:
    """Return the format that the suffix of a file to write names.

    Raises:
        DataError: The suffix is not known.
    """
    name = public_name(place)
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in WRITTEN:
        raise DataError(f"{name!r} names no format: give it one of the suffixes {', '.join(WRITTEN)}")
    return WRITTEN[suffix]


class TableWriter:
    """Writes tables one after the other into a file, which appears when it is complete.

    Args:
        place: The path or URI of the file; its suffix names the format. A Parquet file has page checksums.
    """

    def __init__(self, place: str | Path) -> None:
        self._place, self._format = place, check_suffix(place)
        self._writer: Any = None

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._partial = self._stack.enter_context(new_output(self._place))
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
