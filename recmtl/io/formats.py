"""Formats of tables: which one a file has, what cannot be read, and encodings of a column as plain ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.errors import DataError, unreadable
from recmtl.io.location import Location
from recmtl.io.spellings import DECIMAL_NUMBER, NullWords

PARQUET, IPC, CSV = "parquet", "ipc", "csv"
SUFFIXES = {".parquet": PARQUET, ".pq": PARQUET, ".arrow": IPC, ".feather": IPC}
MAGICS = {b"PAR1": PARQUET, b"ARROW1": IPC}  # the first bytes of a file
START_BYTES = 512  # of a file, in which its format shows
SAVE = "save its rows as CSV, Parquet or Arrow"
PACKED = "unpack it, or pack it as .gz, .zst, .bz2 or .lz4"
# The first bytes of files that are no text, as they lie on disk.
FOREIGN_MAGICS = {
    b"PK\x03\x04": f"a zip or a spreadsheet: unpack it, or {SAVE}",
    b"\xfd7zXZ\x00": f"packed by xz: {PACKED}",
    b"7z\xbc\xaf\x27\x1c": f"packed by 7-Zip: {PACKED}",
    b"\xd0\xcf\x11\xe0": f"an old spreadsheet: {SAVE}",
    b"\x89HDF": f"an HDF5 file: {SAVE}",
    b"\x93NUMPY": f"a NumPy file: {SAVE}",
    b"SQLite format 3": f"an SQLite database: {SAVE}",
    b"Obj\x01": f"an Avro file: {SAVE}",
    b"RDX3\n": f"an R file: {SAVE}",
}
# Of files that lack the suffix which says how they are packed.
CODECS = {b"\x1f\x8b": ".gz", b"BZh91AY&SY": ".bz2", b"\x28\xb5\x2f\xfd": ".zst", b"\x04\x22\x4d\x18": ".lz4"}
PICKLE, TAR, TAR_AT = re.compile(rb"\x80[\x02-\x05]"), b"ustar", 257
JSON = re.compile(rb'(\xef\xbb\xbf)?\s*(\[\s*)?(\{\s*"|\[\s*\[)')
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
EXTENSIONS = ("arrow.json", "arrow.bool8")  # types that are read as what they are stored as
SCALARS = (str, bytes, bool, int, float, np.generic)  # that a column of mixed Python objects may hold


@runtime_checkable
class ArrowStream(Protocol):
    """A table of any library that hands out Arrow data, such as a Polars DataFrame or a DuckDB relation."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Return a capsule with a stream of record batches."""


Frame: TypeAlias = pd.DataFrame | pa.Table | ArrowStream


def format_of(location: Location) -> str:
    """Return the format of a file: by its suffix in any case, or else by its first bytes; all else is CSV."""
    if location.suffix in SUFFIXES:
        return SUFFIXES[location.suffix]
    with location.stream(compressed=True) as stream:
        start = stream.read(START_BYTES)
    found = next((name for magic, name in MAGICS.items() if start.startswith(magic)), CSV)
    if found == CSV:
        check_packed(location.name, start, location.is_compressed)
        with location.stream() as stream:
            check_text(location.name, stream.read(START_BYTES))
    return found


def check_packed(name: str, start: bytes, packed: bool) -> None:
    """Check the first bytes of a file as it lies on disk; `packed` says whether its suffix names a compression.

    Raises:
        DataError: They are those of a format that is not read.
    """
    for magic, found in FOREIGN_MAGICS.items():
        if start.startswith(magic):
            raise DataError(f"{name} is {found}")
    for magic, suffix in CODECS.items():
        if start.startswith(magic) and not packed:
            raise DataError(f"{name} is packed, but its name does not say how: rename it to end in {suffix}")


def check_text(name: str, start: bytes) -> None:
    """Check the first bytes of a file that should be CSV.

    Raises:
        DataError: They are those of another format.
    """
    if PICKLE.match(start):
        raise DataError(f"{name} is a pickle: {SAVE}")
    if start[TAR_AT:].startswith(TAR):
        raise DataError(f"{name} is a tar archive: unpack it")
    if start.startswith(UTF_16) or (len(start) > 3 and (start[1::2] + b"\0").count(0) > len(start) // 4):
        raise DataError(f"{name} is not in UTF-8: save it as UTF-8 text")
    if JSON.match(start):
        raise DataError(f"{name} is JSON: {SAVE}, in Python by `pandas.read_json(…)` and `to_parquet`")
    if b"\0" in start.partition(b"\n")[0]:
        raise DataError(f"{name} is not a CSV file: expected a header in UTF-8 text")


def is_column(data: object) -> bool:
    """Return whether an object is a column of pandas or Polars."""
    return type(data).__name__ == "Series"


def check_rows(data: object) -> None:
    """Check that an object may hold rows, or be a list of what holds rows.

    Raises:
        DataError: It is an object of a kind that is not read.
    """
    kind = type(data)
    kind_name, module = kind.__name__, kind.__module__.partition(".")[0]
    if hasattr(data, "collect") and module == "polars":
        raise DataError(f"a {kind_name} has no rows yet: give `data.collect()`")
    if module == "pyarrow" and hasattr(data, "scanner"):
        raise DataError(f"a pyarrow {kind_name} is not read: give the paths of its files, or `data.to_table()`")
    if isinstance(data, dict):
        raise DataError("a dict is not read: give `pandas.DataFrame(data)`")
    if isinstance(data, Iterator):
        raise DataError(f"a {kind_name} can be read once only: give a list")
    if is_column(data):
        raise DataError("a Series is one column: give a DataFrame, such as `data.to_frame()`")
    if not isinstance(data, list | tuple):
        raise DataError(
            f"rows cannot be read from a {kind_name}: give files, a DataFrame or an Arrow table, "
            "such as `pandas.DataFrame(data, columns=[…])`"
        )
    for item in data:
        if isinstance(item, dict):
            raise DataError("a list of dicts is not read: give `pandas.DataFrame(data)`")


def frame_name(data: Frame, name: str = "") -> str:
    """Return the name of a table in memory for errors, such as ``the train frame``."""
    return " ".join(filter(None, ("the", name, "table" if isinstance(data, pa.Table) else "frame")))


def as_table(data: Frame, name: str) -> pa.Table:
    """Return a table in memory as an Arrow table with plain columns, and those of a frame's index that have names.

    Raises:
        DataError: A column holds values that Arrow has no type for.
    """
    try:
        if isinstance(data, pd.DataFrame):
            return plain_table(_table_of_frame(data))
        if not isinstance(data, pa.Table):
            _check_objects(data)
        return plain_table(data if isinstance(data, pa.Table) else pa.table(data))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise unreadable(name, error) from error


def _check_objects(frame: Any) -> None:
    """Check that a Polars frame holds no column of Python objects, which Arrow would get the addresses of."""
    schema = getattr(frame, "schema", None)
    for name, kind in schema.items() if isinstance(schema, Mapping) else ():
        if str(kind) == "Object":
            raise ValueError(f"column {name!r} holds Python objects: cast it to text, numbers or lists")


def index_columns(schema: pa.Schema) -> tuple[str, ...]:
    """Return the columns that hold the index of a pandas frame, as pandas writes it beside the columns of the frame."""
    try:
        found = schema.pandas_metadata or {}
    except ValueError:  # no JSON
        return ()
    names = found.get("index_columns") if isinstance(found, dict) else None
    return tuple(n for n in names if isinstance(n, str) and n in schema.names) if isinstance(names, list) else ()


def _table_of_frame(frame: pd.DataFrame) -> pa.Table:
    """Convert a DataFrame; in a column of objects, numbers among text are written as text."""
    unnamed = [
        level
        for level, name in enumerate(frame.index.names)
        if not isinstance(name, str) or name in frame.columns or frame.index.names.count(name) > 1
    ]
    indexed = len(unnamed) < frame.index.nlevels
    if unnamed and indexed:
        frame = frame.droplevel(list[Hashable](unnamed))
    try:
        return pa.Table.from_pandas(frame, preserve_index=indexed)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        if not frame.columns.is_unique:
            raise
    frame = frame.copy(deep=False)
    for name in frame.columns[[kind == np.dtype(object) for kind in frame.dtypes]]:
        frame[name] = _as_text(frame[name])
    return pa.Table.from_pandas(frame, preserve_index=indexed)


def _as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column of different kinds of values as text, any other one unchanged."""
    present = column.notna()
    kinds = {type(value) for value in column[present]}
    if len(kinds) < 2 or not all(issubclass(kind, SCALARS) for kind in kinds) or bytes in kinds:
        return column
    return column.where(~present, column.astype(str)).where(present, None)


def plain_table(table: pa.Table) -> pa.Table:
    """Return a table whose columns are all plain; see `plain_array`."""
    arrays = [_plain_chunks(column) for column in table.columns]
    return pa.Table.from_arrays(arrays, names=table.column_names, metadata=table.schema.metadata)


def _plain_chunks(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if is_plain(column.type):
        return column
    empty = plain_array(pa.array([], column.type) if not column.num_chunks else column.chunk(0).slice(0, 0))
    return pa.chunked_array([plain_array(chunk) for chunk in column.chunks], empty.type)


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch whose columns are all plain; see `plain_array`."""
    return pa.RecordBatch.from_arrays([plain_array(column) for column in batch.columns], names=batch.schema.names)


def plain_array(array: pa.Array) -> pa.Array:
    """Return an array without run-end encoding and views, and JSON and booleans of one byte as their storage."""
    if isinstance(array.type, pa.BaseExtensionType):
        return plain_array(array.storage) if array.type.extension_name in EXTENSIONS else array
    if pa.types.is_run_end_encoded(array.type):
        return plain_array(pc.run_end_decode(array))
    if pa.types.is_dictionary(array.type) and not is_plain(array.type.value_type):
        return pa.DictionaryArray.from_arrays(array.indices, plain_array(array.dictionary))
    if pa.types.is_list_view(array.type) or pa.types.is_large_list_view(array.type):
        lengths = pc.list_value_length(array)
        ends = np.concatenate([[0], np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False))])
        elements = plain_array(pc.list_flatten(array))
        return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), elements, mask=array.is_null())
    plain = _without_views(array.type)
    return array if plain == array.type else array.cast(plain)


def is_plain(kind: pa.DataType) -> bool:
    """Return whether an array of a type is plain already."""
    if isinstance(kind, pa.BaseExtensionType):
        return kind.extension_name not in EXTENSIONS
    if pa.types.is_dictionary(kind):
        return is_plain(kind.value_type)
    encoded = (pa.types.is_run_end_encoded, pa.types.is_list_view, pa.types.is_large_list_view)
    return not any(check(kind) for check in encoded) and bool(_without_views(kind) == kind)


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(_without_views(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_without_views(kind.value_type))
    return pa.list_(_without_views(kind.value_type), kind.list_size) if pa.types.is_fixed_size_list(kind) else kind


def without_nulls(batch: pa.RecordBatch, nulls: NullWords, numbers: Collection[str]) -> pa.RecordBatch:
    """Return rows with null in place of some words, given the columns that hold numbers."""
    columns = [replace_nulls(batch.column(name), nulls, name in numbers) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def replace_nulls(array: pa.Array, nulls: NullWords, numeric: bool = False) -> pa.Array:
    """Return an array of text, bytes or numbers, or a dictionary of these, with null in place of some words.

    In a column that holds numbers, text is compared by the number that it spells.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        dictionary = replace_nulls(array.dictionary, nulls, numeric)
        return array if dictionary is array.dictionary else pa.DictionaryArray.from_arrays(array.indices, dictionary)
    if kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary()):
        found = pc.is_in(array, pa.array(nulls, kind))
        if nulls.spellings:
            found = pc.or_(found, pc.match_substring_regex(array, nulls.spellings).fill_null(False))
            if numeric:
                found = pc.or_(found, _is_number(_spelled_numbers(array, nulls.decimal), nulls.numbers))
    elif nulls.numbers and (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        found = _is_number(array, nulls.numbers)
    else:
        return array
    return pc.if_else(found, None, array) if pc.any(found, min_count=0).as_py() else array


def _is_number(array: pa.Array, numbers: Collection[int | float]) -> pa.BooleanArray:
    """Return which numbers are some others, rounded to their type ``[rows]``."""
    if pa.types.is_integer(array.type):
        limits = np.iinfo(array.type.to_pandas_dtype())
        whole = [n for n in numbers if isinstance(n, int) and limits.min <= n <= limits.max]
        return pc.is_in(array, pa.array(whole, array.type))
    if pa.types.is_decimal(array.type):
        return pc.is_in(array, _decimals(numbers, array.type))
    narrow = pa.types.is_floating(array.type) and array.type != pa.float64()
    with np.errstate(over="ignore"):
        others = np.array([*numbers], np.float64).astype(array.type.to_pandas_dtype() if narrow else np.float64)
    others = np.append(others[np.isfinite(others)], [-0.0] * (0 in numbers))  # which Arrow tells from zero
    wide = array if array.type == pa.float32() else array.cast(pa.float32() if narrow else pa.float64())
    return pc.is_in(wide, pa.array(others, pa.float64()).cast(wide.type))


def _decimals(numbers: Collection[int | float], kind: pa.DataType) -> pa.Array:
    """Return those of some numbers that a type of decimals holds as they are."""
    found = []
    for number in numbers:
        with suppress(pa.ArrowInvalid):
            found.append(pa.scalar(Decimal(str(number)), kind))
    return pa.array(found, kind)


def _spelled_numbers(text: pa.Array, decimal: str) -> pa.DoubleArray:
    """Return the numbers that text or bytes spell, null where they spell none ``[rows]``."""
    digits = DECIMAL_NUMBER.replace(r"\.", re.escape(decimal))
    words = pc.utf8_trim_whitespace(text) if text.type in (pa.string(), pa.large_string()) else text
    numbers = pc.if_else(pc.match_substring_regex(words, rf"^\s*{digits}\s*$"), words, None).cast(pa.string())
    return pc.replace_substring(pc.utf8_trim_whitespace(numbers), decimal, ".").cast(pa.float64())
