"""Parsed rows kept in a temporary file, so that a text file is parsed once however often it is read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc as ipc

from recmtl.data.sources.base import Source, WrappedSource
from recmtl.errors import DataError


class ParsedSpool(WrappedSource):
    """A source whose first whole reading is written to a file, from which the later ones come.

    Args:
        source: The source; every reading must ask for the same.
        folder: The empty folder to write, Arrow streams of the parsed columns: one, or more where types change.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        super().__init__(source)
        self._folder = folder
        self._files: list[Path] = []
        self._whole = False
        self._malformed = 0

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows, as the source gives them."""
        if self._whole:
            if malformed is not None:
                for _ in range(self._malformed):
                    malformed()
            for path in self._files:
                with pa.OSFile(str(path)) as file, ipc.open_stream(file) as reader:
                    yield from reader
        else:
            yield from self._written(columns, numbers, malformed)

    def _written(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None
    ) -> Iterator[pa.RecordBatch]:
        writer: ipc.RecordBatchStreamWriter | None = None
        types: pa.Schema | None = None
        self._files, self._malformed = [], 0

        def count() -> None:
            self._malformed += 1
            if malformed is not None:
                malformed()

        with ExitStack() as stack:
            for batch in self._source.batches(columns, numbers, count if malformed else None):
                try:
                    if writer is None or batch.schema != types:
                        types = batch.schema
                        self._files.append(self._folder / f"{len(self._files)}.arrows")
                        writer = stack.enter_context(ipc.new_stream(str(self._files[-1]), types))
                    writer.write_batch(batch)
                except (OSError, pa.ArrowException) as error:
                    stack.pop_all()  # closing would fail once more, and hide this
                    raise self._unwritten(error) from error
                yield batch
            try:
                stack.close()
            except (OSError, pa.ArrowException) as error:
                raise self._unwritten(error) from error
        self._whole, self.notes = True, self._source.notes

    def _unwritten(self, error: Exception) -> DataError:
        what = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        return DataError(f"the rows of {self.name} cannot be written: {what}")


def spooled(sources: Iterable[Source], folder: Path) -> list[Source]:
    """Keep what sources of text give in a folder; others are read again."""
    return [ParsedSpool(s, Path(tempfile.mkdtemp(dir=folder))) if s.parses else s for s in sources]
