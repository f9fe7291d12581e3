"""Convert columns of any Arrow type to text, lists, numbers, integers or hashes: equal values whatever the source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.errors import BadValueError
from recmtl.io.formats import plain_array, replace_nulls
from recmtl.io.list_text import parse_list
from recmtl.io.spellings import (
    COMMON_NULLS,
    DECIMAL_NUMBER,
    FINITE,
    MISSING_NUMBERS,
    NAN_SPELLINGS,
    NUMBER,
    ONE_CATEGORY,
    ROUNDED,
    SPELLINGS,
    TRUTH_VALUES,
    UNCLOSED_LIST,
    NullWords,
)
from recmtl.schema.text_format import bracketed, rounded_ids, unclosed, with_decimal_point

SEPARATED_NUMBER = re.compile(r"[+-]?[0-9]+([,.' \u00a0\u202f][0-9]+)+")
INTEGER = r"^(0|-?[1-9][0-9]{0,18})$"  # canonical 64-bit integers; those of 19 digits may be too large
MAX_INT64, MIN_INT64 = "9223372036854775807", "-9223372036854775808"

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
RowNumbers = npt.NDArray[np.int64]


def as_text(array: pa.Array, column: str, ids: bool = True) -> tuple[pa.StringArray, Codes]:
    """Return the distinct values of a column as text, and the position of each row's value ``[rows]`` (-1: missing).

    Integers are written exactly, whole floats as integers, booleans as ``true`` and ``false``, and text that spells
    one of these (``3.0``, ``True``) alike: a category has the same text whatever the source. It may appear twice among
    the values; missing ones are null. The source has read words for a missing value as null. Whole floats that stand
    for several integers, as ids beyond 2⁵³ do, raise `BadValueError`, unless the values are no ids.
    """
    if pa.types.is_nested(array.type):
        value = array[0].as_py() if len(array) else None
        raise BadValueError(0, column, value, ONE_CATEGORY)
    array = decode_bytes(array, column)
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    values = _text_of(encoded.dictionary)
    codes = encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)  # indices may be unsigned
    inexact = rounded_ids(encoded.dictionary).to_numpy(zero_copy_only=False) & ids
    rounded = np.append(inexact, False)[codes]
    if rounded.any():
        row = int(rounded.argmax())
        raise BadValueError(row, column, encoded.dictionary[codes[row]].as_py(), ROUNDED, rounded)
    if values.null_count:
        missing = values.is_null().to_numpy(zero_copy_only=False)
        codes = np.where(np.append(missing, True)[codes], -1, codes)
    return values, codes


def _text_of(values: pa.Array) -> pa.StringArray:
    if pa.types.is_integer(values.type):
        return values.cast(pa.string())
    if pa.types.is_floating(values.type):
        values = values.cast(pa.float32()) if pa.types.is_float16(values.type) else values
        values = pc.if_else(pc.is_nan(values), None, values)
        whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**63))
        integers = pc.if_else(whole, values, None).cast(pa.float64()).cast(pa.int64(), safe=False).cast(pa.string())
        return pc.if_else(whole, integers, values.cast(pa.string())).cast(pa.string())
    text = values.cast(pa.string())
    for spelling, canonical in SPELLINGS:
        text = pc.replace_substring_regex(text, spelling, canonical)
    return text


def decode_bytes(array: pa.Array, column: str) -> pa.Array:
    """Return bytes as text, any other column unchanged; bytes that are not UTF-8 raise `BadValueError`."""
    if pa.types.is_dictionary(array.type) and _is_bytes(array.type.value_type):
        array = array.dictionary_decode()
    array = plain_array(array)
    if not _is_bytes(array.type):
        return array
    try:
        return array.cast(pa.large_string() if pa.types.is_large_binary(array.type) else pa.string())
    except pa.ArrowInvalid:
        text = pa.array(array.to_pandas().str.decode("utf-8", errors="replace"), pa.large_string(), from_pandas=True)
        changed = pc.not_equal(text.cast(pa.large_binary()), array.cast(pa.large_binary())).fill_null(False)
        bad = changed.to_numpy(zero_copy_only=False)
        row = int(bad.argmax())
        raise BadValueError(row, column, text[row].as_py(), "text in UTF-8", bad) from None


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def as_lists(
    array: pa.Array, separator: str, column: str, nulls: NullWords = COMMON_NULLS
) -> tuple[pa.StringArray, Codes, Codes]:
    """Return distinct elements of a column of lists, codes of all elements ``[Σ lengths]``, and lengths ``[rows]``.

    Text is split at the separator, but for lists that were written as text (``['a', 'b']``), which are read as such.
    Blanks around an element are stripped; missing elements, and those that are words for a missing value, are dropped.
    """
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        values, codes = as_text(array, column)
        lists = _split_text(values, codes, separator, column)
        array = lists.take(pa.array(np.where(codes < 0, 0, codes), mask=codes < 0))
    rows = np.repeat(np.arange(len(array)), pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False))
    try:
        elements = decode_bytes(pc.list_flatten(array), column)
        if pa.types.is_string(elements.type) or pa.types.is_large_string(elements.type):
            elements = pc.utf8_trim_whitespace(elements)
        values, codes = as_text(replace_nulls(elements, nulls), column)
    except BadValueError as bad:
        if bad.mask is None:  # of the whole column
            raise
        mask = np.bincount(rows[bad.mask], minlength=len(array)) > 0
        raise BadValueError(int(rows[bad.row]), column, bad.value, bad.expected, mask) from None
    kept = codes >= 0
    return values, codes[kept], np.bincount(rows[kept], minlength=len(array)).astype(np.int64)


def _split_text(values: pa.StringArray, codes: Codes, separator: str, column: str) -> pa.ListArray:
    """Split distinct values at the separator, or read them as lists that were written as text."""
    lists = pc.split_pattern(values, separator)
    cut = np.append(unclosed(values).fill_null(False).to_numpy(zero_copy_only=False), False)[codes]
    if cut.any():
        row = int(cut.argmax())
        raise BadValueError(row, column, values[codes[row]].as_py(), UNCLOSED_LIST, cut)
    written = np.flatnonzero(bracketed(values).fill_null(False).to_numpy(zero_copy_only=False))
    if not len(written):
        return lists
    elements = lists.to_pylist()
    for place in written.tolist():
        try:
            found = parse_list(values[place].as_py(), separator)
        except ValueError as error:
            rows = codes == place
            raise BadValueError(int(rows.argmax()), column, values[place].as_py(), str(error), rows) from None
        elements[place] = elements[place] if found is None else found
    return pa.array(elements, lists.type)


def as_numbers(array: pa.Array, column: str, decimal: str = ".") -> Floats:
    """Return a column as finite float64, NaN where it is missing; any other value raises `BadValueError`."""
    numbers = read_numbers(array, column, decimal)
    infinite: npt.NDArray[np.bool_] = np.isinf(numbers)
    if infinite.any():
        row = int(infinite.argmax())
        raise BadValueError(row, column, float(numbers[row]), FINITE, infinite)
    return numbers


def read_numbers(array: pa.Array, column: str, decimal: str = ".") -> Floats:
    """Return a column as float64, perhaps infinite, NaN where it is missing; any other value raises `BadValueError`.

    Booleans are 1 and 0, as text, too; of text, words such as ``NA`` are missing as well, and `decimal` is the decimal
    mark.
    """
    numbers: Floats
    if pa.types.is_float64(array.type):
        numbers = array.to_numpy(zero_copy_only=False)
        return numbers
    array = decode_bytes(array, column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        numbers = _parse_numbers(array, column, decimal)
    elif any(check(kind) for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)):
        numbers = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    elif pa.types.is_boolean(kind):
        numbers = array.cast(pa.int8()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    elif pa.types.is_null(kind):
        numbers = np.full(len(array), np.nan)
    else:
        value = array[0].as_py() if len(array) else None
        raise BadValueError(0, column, value, f"a number: the column is of type {kind}")
    return numbers


def _parse_numbers(array: pa.Array, column: str, decimal: str) -> Floats:
    numbers: Floats
    given, array = array, with_decimal_point(array, decimal)
    present = pc.if_else(pc.is_in(array, pa.array(MISSING_NUMBERS, array.type)), None, array)
    try:
        numbers = pc.utf8_trim_whitespace(present).cast(pa.float64()).to_numpy(zero_copy_only=False)
        return numbers
    except pa.ArrowInvalid:  # pandas is slower, but finds the bad row
        text = array.to_pandas()
    words = text.str.strip().str.lower()
    numbers = pd.to_numeric(words, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    truth = words.map(TRUTH_VALUES).to_numpy(dtype=np.float64, na_value=np.nan)
    numbers = np.where(np.isnan(truth), numbers, truth)
    missing = text.isna() | text.isin(MISSING_NUMBERS) | words.isin(NAN_SPELLINGS)
    bad = np.isnan(numbers) & ~missing.to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise BadValueError(row, column, given[row].as_py(), _expected_number(given[row].as_py(), decimal), bad)
    return numbers


def _expected_number(text: str, decimal: str) -> str:
    """Return what was expected in place of text that is no number; it may have separators, or another decimal mark."""
    text, (other, name) = text.strip(), (",", "comma") if decimal == "." else (".", "point")
    ways = ["write it without separators of thousands"] if SEPARATED_NUMBER.fullmatch(text) else []
    if re.fullmatch(DECIMAL_NUMBER.replace(r"\.", re.escape(other)), text):
        ways.append(f"say `--decimal {other}` (on a card `decimal: '{other}'`) if the {name} is the decimal mark")
    return ": ".join([NUMBER, *filter(None, [", or ".join(ways)])])


def cast_integer_columns(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cast text columns to int64, which is smaller and faster to look up, until a value is not a canonical integer."""
    text_columns: set[str] = set()
    for batch in batches:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name, column in columns.items():
            if pa.types.is_string(column.type) and name not in text_columns:
                integers = parse_integers(column)
                if integers is None:
                    text_columns.add(name)
                else:
                    columns[name] = integers
        yield pa.RecordBatch.from_pydict(columns)


def parse_integers(text: pa.StringArray) -> pa.Int64Array | None:
    """Return text as integers, or ``None`` if a value is not canonical: ``007``, ``-0``, ``0x1F``."""
    try:
        integers = text.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    if len(text) and _text_length(integers) == _digits(text):
        return integers  # such as `007` and `-0` are longer than their integers
    canonical = pc.all(pc.equal(integers.cast(text.type), text), min_count=0).as_py()
    return integers if canonical else None


def _digits(text: pa.StringArray) -> int | None:
    """Return how many characters text has, or ``None`` if there may be letters among them, as in ``0x1F``."""
    _, offsets, characters = text.buffers()
    kind = np.int64 if pa.types.is_large_string(text.type) else np.int32
    start, *_, end = np.frombuffer(offsets, kind)[[text.offset, text.offset + len(text)]].tolist()
    used = np.frombuffer(characters or b"", np.uint8)[start:end]
    return len(used) if used.max(initial=0) <= ord("9") else None


def _text_length(integers: pa.Int64Array) -> int:
    """Return how many characters integers have as text."""
    numbers = integers.drop_null().to_numpy()
    largest, smallest = int(numbers.max(initial=0)), int(numbers.min(initial=0))
    length, bound = len(numbers), 10
    if smallest < 0:
        length += int(np.count_nonzero(numbers < 0))
    while bound <= max(largest, -smallest):
        length += int(np.count_nonzero(numbers >= bound)) if bound <= largest else 0
        length += int(np.count_nonzero(numbers <= -bound)) if bound <= -smallest else 0
        bound *= 10
    return length


def find_integers(text: pa.Array) -> tuple[Codes, Codes]:
    """Return the positions of the canonical integers among text, which may have nulls, and the integers."""
    integers = None if text.null_count else parse_integers(text)
    if integers is not None:
        return np.arange(len(text)), integers.to_numpy()
    canonical = _is_integer(text).fill_null(False)
    return np.flatnonzero(canonical.to_numpy(zero_copy_only=False)), text.filter(canonical).cast(pa.int64()).to_numpy()


def _is_integer(text: pa.Array) -> pa.BooleanArray:
    digits = pc.utf8_lpad(pc.utf8_ltrim(text, "-"), len(MAX_INT64), "0")
    fits = pc.or_(pc.less_equal(digits, MAX_INT64), pc.equal(text, MIN_INT64))
    return pc.and_(pc.match_substring_regex(text, INTEGER), fits)


def all_integers(array: pa.Array, column: str) -> bool:
    """Return whether a column holds only 64-bit integers, as numbers or as canonical text."""
    return pa.types.is_signed_integer(array.type) or parse_integers(as_text(array, column)[0].drop_null()) is not None


def as_integers(values: pa.StringArray, codes: Codes, column: str) -> pa.Int64Array:
    """Return the distinct values of a key, as returned by `as_text`, as integers; others raise `BadValueError`."""
    invalid = pc.invert(_is_integer(values)).fill_null(False).to_numpy(zero_copy_only=False)
    bad = np.append(invalid, False)[codes]
    if bad.any():
        row = int(bad.argmax())
        expected = "an integer, as this key was in the training rows"
        raise BadValueError(row, column, values[codes[row]].as_py(), expected, bad)
    return values.cast(pa.int64())


def stable_hash(values: pa.StringArray | npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Hash text (missing is empty) or integers to 64 bits, equal in every process and version and on every machine."""
    array = values.fill_null("").to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values
    hashes: npt.NDArray[np.uint64] = pd.util.hash_array(array, categorize=False)
    return hashes
