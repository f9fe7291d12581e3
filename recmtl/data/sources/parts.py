"""Rows with something added: columns that stand in the names of folders, or words for a missing value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa

from recmtl.data.sources.base import DerivedSource, PartMap, Source
from recmtl.io.formats import without_nulls
from recmtl.io.spellings import NullWords


class PartSource(DerivedSource):
    """Rows of a file with further columns, each of which has one value in all rows of it.

    Args:
        source: The rows of the file.
        keys: The value of each further column, as text; ``None`` is a missing value.
    """

    def __init__(self, source: Source, keys: Mapping[str, str | None]) -> None:
        super().__init__(source)
        self.parses, self.rows, self.digest = source.parses, source.rows, source.digest
        self.index, self.unnamed, self._keys = source.index, source.unnamed, keys
        self.columns = (*source.columns, *keys)

    def cut(self, size: int, work: PartMap = map) -> Sequence[Source]:
        """Return the pieces of the file, with the further columns."""
        return [PartSource(piece, self._keys) for piece in self._source.cut(size, work)]

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows of the file, and add the further columns."""
        read = [column for column in columns if column not in self._keys] or [*self._source.columns[:1]]
        for batch in self._source.batches(read, numbers, malformed):
            arrays = [
                pa.repeat(pa.scalar(self._keys[column], pa.string()), batch.num_rows)
                if column in self._keys
                else batch.column(column)
                for column in columns
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
        self.notes = self._source.notes


class NullsSource(DerivedSource):
    """Rows of a source that knows no card, without the card's words for a missing value.

    Args:
        source: The rows.
        nulls: The words.
    """

    def __init__(self, source: Source, nulls: NullWords) -> None:
        super().__init__(source)
        self.parses, self.rows, self.digest = source.parses, source.rows, source.digest
        self.index, self.unnamed, self._nulls = source.index, source.unnamed, nulls

    def batches(
        self, columns: Sequence[str], numbers: frozenset[str], malformed: Callable[[], None] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows."""
        for batch in self._source.batches(columns, numbers, malformed):
            yield without_nulls(batch, self._nulls, numbers)
        self.notes = self._source.notes
