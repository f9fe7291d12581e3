"""Where rows come from: CSV, Parquet and Arrow files, tables and DataFrames, all streamed as Arrow record batches."""

from __future__ import annotations

import csv
import glob
import io
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from recmtl.data.errors import BadValueError, DataError
from recmtl.data.values import as_numbers
from recmtl.schema.infer import NULLS, suffix

BLOCK_BYTES = 1 << 22  # of a CSV file, parsed at a time
LINE_CHARACTERS = 1 << 22  # read at a time, so that a file without line ends does not fill the memory
FRAME_ROWS = 1 << 16  # of a table in memory, handed on at a time
NOT_TEXT = frozenset("\0\ufffd")  # the second stands for what is not UTF-8


class Source(ABC):
    """Rows that can be streamed any number of times.

    Attributes:
        name: What to call them in an error.
        columns: Their columns.
        parses: Whether reading them takes more time than reading what was parsed.
        notes: What was noticed when they were last read to their end, in sentences.
    """

    name: str
    columns: tuple[str, ...]
    parses = False
    notes: tuple[str, ...] = ()

    @abstractmethod
    def batches(self, columns: Sequence[str], numbers: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Stream the rows.

        Args:
            columns: The columns to read.
            numbers: Those of them that are read as numbers where the source has no types of its own; the others are
                read as text.
        """

    def fault(self, bad: BadValueError, offset: int) -> DataError:
        """Say where a bad value stands.

        Args:
            bad: The value.
            offset: The number of rows before its batch.
        """
        return DataError(f"{self.place(offset + bad.row)}, column {bad.column!r}: {bad.value!r} is not {bad.expected}")

    def place(self, row: int) -> str:
        """Name a row (from 0) in the words that find it again."""
        return f"{self.name}, row {row + 1}"


Data: TypeAlias = str | Path | pd.DataFrame | pa.Table | Source | Sequence[str | Path | Source]


class FrameSource(Source):
    """A table or DataFrame in memory."""

    def __init__(self, table: pa.Table, name: str) -> None:
        self.name, self._table = name, table
        self.columns = tuple(table.column_names)

    def batches(self, columns: Sequence[str], numbers: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Stream the rows; types stay as they are."""
        yield from self._table.select(list(columns)).combine_chunks().to_batches(max_chunksize=FRAME_ROWS)


class ArrowSource(Source):
    """An Arrow IPC file (also called Feather)."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        with pa.memory_map(self.name) as file:
            self.columns = tuple(ipc.open_file(file).schema.names)

    def batches(self, columns: Sequence[str], numbers: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Stream the rows; types stay as they are."""
        with pa.memory_map(self.name) as file:
            reader = ipc.open_file(file)
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i).select(list(columns))


class ParquetSource(Source):
    """A Parquet file."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        with pq.ParquetFile(path) as file:
            self.columns = tuple(file.schema_arrow.names)

    def batches(self, columns: Sequence[str], numbers: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Stream the rows; types stay as they are."""
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(batch_size=FRAME_ROWS, columns=list(columns)):
                yield batch.select(list(columns))


class CsvSource(Source):
    """A CSV file, plain or compressed; ``.tsv`` is separated by tabs.

    Args:
        path: The file, or the name of what `opener` opens.
        header: The columns of a file without a header.
        opener: Opens what is not a file of its own.
    """

    parses = True

    def __init__(
        self, path: Path, header: Sequence[str] = (), opener: Callable[[], pa.NativeFile] | None = None
    ) -> None:
        self.name, self._header = str(path), list(header)
        self._open = opener or partial(pa.input_stream, self.name, compression="detect")
        self._delimiter = "\t" if suffix(path) == ".tsv" else ","
        _, header = next(self._records(), (1, []))
        if not header:
            raise DataError(f"{self.name} is empty: expected a header and rows")
        if any(set(column) & NOT_TEXT for column in header):
            raise DataError(f"{self.name} is not a CSV file: expected a header in UTF-8 text")
        self.columns = tuple(header)

    def batches(self, columns: Sequence[str], numbers: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Stream the rows: numbers as float64, all else as dictionary-encoded text."""
        if next(itertools.islice(self._records(), 1, None), None) is None:
            return
        types = {c: pa.float64() if c in numbers else pa.dictionary(pa.int32(), pa.string()) for c in columns}
        try:
            yield from self._blocks(types)
        except pa.ArrowInvalid as error:  # which does not say where
            if "conversion error" in str(error):
                self._find_bad_value(columns, numbers)
            else:
                self._find_bad_record()
            raise

    def _find_bad_value(self, columns: Sequence[str], numbers: frozenset[str]) -> None:
        offset = 0
        for batch in self._blocks(dict.fromkeys(columns, pa.binary())):
            try:
                for column in columns:
                    text = _decoded(batch.column(column), column)
                    if column in numbers:
                        as_numbers(text, column)
            except BadValueError as bad:
                raise self.fault(bad, offset) from None
            offset += batch.num_rows

    def _find_bad_record(self) -> None:
        for line, record in self._records():
            if len(record) != len(self.columns):
                raise DataError(f"{self.name}, line {line}: {len(record)} columns, expected {len(self.columns)}")

    def place(self, row: int) -> str:
        """Name a row by the line in the file where it begins."""
        line, _ = next(itertools.islice(self._records(), row + 1, None))
        return f"{self.name}, line {line}"

    def _blocks(self, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        with self._open() as stream:
            yield from pacsv.open_csv(
                stream,
                read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES, column_names=self._header),
                parse_options=pacsv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
                convert_options=pacsv.ConvertOptions(
                    column_types=types, include_columns=list(types), null_values=NULLS, strings_can_be_null=True
                ),
            )

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Give header and rows, blank lines left out, and the line where each begins."""
        if self._header:
            yield 0, self._header
        with io.TextIOWrapper(self._open(), encoding="utf-8-sig", errors="replace", newline="") as text:
            reader = csv.reader(iter(partial(text.readline, LINE_CHARACTERS), ""), delimiter=self._delimiter)
            line = 1
            try:
                for record in reader:
                    if record:
                        yield line, record
                    line = reader.line_num + 1
            except csv.Error as error:
                raise DataError(f"{self.name}, line {line} is not CSV: {error}") from error


def open_sources(data: Data, what: str = "data") -> list[Source]:
    """Open data in any accepted form.

    Args:
        data: A file, a glob, a folder, a source, a list of these, a DataFrame or an Arrow table. Files are CSV
            (``.gz``, ``.zst`` and ``.tsv`` too), Parquet or Arrow IPC, told by their suffix.
        what: What to call data in memory in an error.

    Raises:
        DataError: A file is missing, empty, or cannot be read.
    """
    if isinstance(data, Source):
        return [data]
    if isinstance(data, pd.DataFrame):
        return [_checked(FrameSource(_from_pandas(data, what), f"the {what} frame"))]
    if isinstance(data, pa.Table):
        return [_checked(FrameSource(data, f"the {what} table"))]
    if isinstance(data, str | Path):
        return [_open(path) for path in expand(data)]
    if not data:
        raise DataError(f"the list of {what} files is empty")
    return [source for item in data for source in open_sources(item, what)]


def expand(location: str | Path) -> list[Path]:
    """Give the files that a path, folder or glob names.

    Raises:
        DataError: There are none.
    """
    path = Path(location)
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith((".", "_")))
        if not paths:
            raise DataError(f"the folder {str(path)!r} holds no files")
        return paths
    if path.exists():
        return [path]
    paths = sorted(p for p in map(Path, glob.glob(str(location), recursive=True)) if p.is_file())
    if not paths:
        raise DataError(f"there is no file {str(location)!r}")
    return paths


def _open(path: Path) -> Source:
    kinds: dict[str, Callable[[Path], Source]] = {
        ".parquet": ParquetSource,
        ".pq": ParquetSource,
        ".arrow": ArrowSource,
        ".feather": ArrowSource,
    }
    try:
        return _checked(kinds.get(suffix(path), CsvSource)(path))
    except (OSError, pa.ArrowException) as error:
        raise unreadable(str(path), error) from error


def _checked(source: Source) -> Source:
    for column in source.columns:
        if source.columns.count(column) > 1:
            raise DataError(f"{source.name} has the column {column!r} twice")
    return source


def _from_pandas(frame: pd.DataFrame, what: str) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise unreadable(f"the {what} frame", error) from error


def _decoded(values: pa.BinaryArray, column: str) -> pa.StringArray:
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        texts = [(value or b"").decode(errors="replace") for value in values.to_pylist()]
        row = next(i for i, text in enumerate(texts) if set(text) & NOT_TEXT)
        raise BadValueError(row, column, texts[row], "text in UTF-8") from None


def unreadable(name: str, error: Exception) -> DataError:
    """Say of a source why its reader gave up."""
    what = " ".join(map(str, error.args)) or type(error).__name__
    return DataError(f"{name} cannot be read: {' '.join(what.split()).rstrip('.')}")
