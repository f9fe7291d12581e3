"""Where rows come from: CSV, Parquet and Arrow files, tables and DataFrames, all streamed as Arrow record batches."""

from __future__ import annotations

import csv
import glob
import io
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

from recmtl.data.errors import BadValueError, DataError
from recmtl.data.values import NULLS, as_numbers

BLOCK_BYTES = 1 << 22  # of a CSV file, parsed at a time
FRAME_ROWS = 1 << 16  # of a table in memory, handed on at a time
COMPRESSIONS = (".gz", ".zst", ".bz2")

Data: TypeAlias = str | Path | pd.DataFrame | pa.Table | Sequence[str | Path]


class Source(ABC):
    """Rows that can be streamed any number of times."""

    name: str
    columns: tuple[str, ...]

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
    """A CSV file with a header, plain or compressed; ``.tsv`` is separated by tabs."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        self._delimiter = "\t" if ".tsv" in path.suffixes else ","
        header = next(self._records(), None)
        if header is None:
            raise DataError(f"{self.name} is empty: expected a header and rows")
        self.columns = tuple(header)
        for column in self.columns:
            if self.columns.count(column) > 1:
                raise DataError(f"{self.name} has the column {column!r} twice")

    def batches(self, columns: Sequence[str], numbers: frozenset[str]) -> Iterator[pa.RecordBatch]:
        """Stream the rows: numbers as float64, all else as dictionary-encoded text."""
        types = {c: pa.float64() if c in numbers else pa.dictionary(pa.int32(), pa.string()) for c in columns}
        try:
            yield from self._blocks(types)
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            if "conversion error" not in str(error):
                raise DataError(f"{self.name}: {_first_line(error)}") from error
            self._locate([c for c in columns if c in numbers])
            raise DataError(f"{self.name}: {_first_line(error)}") from error

    def _locate(self, numbers: Sequence[str]) -> None:
        """Find the value that the reader stumbled over: it does not say where that stands."""
        offset = 0
        for batch in self._blocks(dict.fromkeys(numbers, pa.string())):
            for column in numbers:
                try:
                    as_numbers(batch.column(column), column)
                except BadValueError as bad:
                    raise self.fault(bad, offset) from None
            offset += batch.num_rows

    def place(self, row: int) -> str:
        """Name a row by its line in the file."""
        reader = csv.reader(self._text(), delimiter=self._delimiter)
        filled = (reader.line_num for record in reader if record)
        return f"{self.name}, line {next(itertools.islice(filled, row + 1, None), row + 2)}"

    def _blocks(self, types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        with pa.input_stream(self.name, compression="detect") as stream:
            try:
                reader = pacsv.open_csv(
                    stream,
                    read_options=pacsv.ReadOptions(block_size=BLOCK_BYTES),
                    parse_options=pacsv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
                    convert_options=pacsv.ConvertOptions(
                        column_types=types, include_columns=list(types), null_values=NULLS, strings_can_be_null=True
                    ),
                )
            except OSError as error:
                raise DataError(f"{self.name} cannot be read: {_first_line(error)}") from error
            yield from reader

    def _text(self) -> io.TextIOWrapper:
        stream = pa.input_stream(self.name, compression="detect")
        return io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="")

    def _records(self) -> Iterator[list[str]]:
        with self._text() as text:
            try:
                yield from csv.reader(text, delimiter=self._delimiter)
            except OSError as error:
                raise DataError(f"{self.name} cannot be read: {_first_line(error)}") from error


def open_sources(data: Data, what: str = "data") -> list[Source]:
    """Open data in any accepted form.

    Args:
        data: A file, a glob, a folder, a list of these, a DataFrame or an Arrow table. Files are CSV (``.gz``,
            ``.zst`` and ``.tsv`` too), Parquet or Arrow IPC, told by their suffix.
        what: What to call data in memory in an error.

    Raises:
        DataError: A file is missing, empty, or cannot be read.
    """
    if isinstance(data, pd.DataFrame):
        return [FrameSource(_from_pandas(data, what), f"the {what} frame")]
    if isinstance(data, pa.Table):
        return [FrameSource(data, f"the {what} table")]
    if isinstance(data, str | Path):
        return [_open(path) for path in expand(data)]
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
    paths = sorted(Path(p) for p in glob.glob(str(location), recursive=True))
    if not paths:
        raise DataError(f"there is no file {str(location)!r}")
    return paths


def _open(path: Path) -> Source:
    suffix = next((s for s in reversed(path.suffixes) if s not in COMPRESSIONS), ".csv")
    kinds: dict[str, Callable[[Path], Source]] = {
        ".parquet": ParquetSource,
        ".pq": ParquetSource,
        ".arrow": ArrowSource,
        ".feather": ArrowSource,
    }
    try:
        return kinds.get(suffix, CsvSource)(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {_first_line(error)}") from error


def _from_pandas(frame: pd.DataFrame, what: str) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"the {what} frame has a column of mixed types: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
