"""Columns of any Arrow type as text, numbers, lists or hashes: the same values whatever the source."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.integers import are_integers
from recmtl.errors import BadValueError
from recmtl.schema.infer import NULLS

SPELLINGS = ((r"^(-?[0-9]+)\.0+$", r"\1"), (r"^True$", "true"), (r"^False$", "false"))  # what files make of a value


Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def as_text(array: pa.Array, column: str) -> tuple[pa.StringArray, Codes]:
    """Give a column as its distinct values in text, and the position of each row's value among them (-1: missing).

    Integers are written exactly, whole floats as integers, booleans as ``true`` and ``false``, and text that spells
    one of these alike (``3.0``, ``True``): one category has one text whatever the source. A category may appear twice
    among the values; those that mean "missing" are null.

    Shape:
        - codes: ``[rows]``

    Raises:
        BadValueError: The column holds lists or records.
    """
    if pa.types.is_nested(array.type):
        value = array[0].as_py() if len(array) else None
        raise BadValueError(0, column, value, "one category: a column of lists is a `multi_categorical` feature")
    array = decoded(array, column)
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    values = _text_of(encoded.dictionary)
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    values = pc.if_else(pc.is_in(values, pa.array(NULLS)), None, values)
    if values.null_count:
        missing = values.is_null().to_numpy(zero_copy_only=False)
        codes = np.where(np.append(missing, True)[codes], -1, codes)
    return values, codes


def decoded(array: pa.Array, column: str) -> pa.Array:
    """Give bytes as text, any other column as it is.

    Raises:
        BadValueError: Bytes are not UTF-8.
    """
    if pa.types.is_dictionary(array.type) and _is_bytes(array.type.value_type):
        array = array.dictionary_decode()
    if pa.types.is_string_view(array.type) or pa.types.is_binary_view(array.type):
        array = array.cast(pa.string() if pa.types.is_string_view(array.type) else pa.binary())
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
    for spelling, plain in SPELLINGS:
        text = pc.replace_substring_regex(text, spelling, plain)
    return text


def as_lists(array: pa.Array, separator: str, column: str) -> tuple[pa.StringArray, Codes, Codes]:
    """Give a column of lists as distinct values, the codes of all elements, and the length of each row's list.

    Text is split at the separator, blanks around an element are dropped; missing elements are left out.

    Shape:
        - codes: ``[Σ lengths]``
        - lengths: ``[rows]``
    """
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        values, codes = as_text(array, column)
        array = pc.split_pattern(values, separator).take(pa.array(np.where(codes < 0, 0, codes), mask=codes < 0))
    rows = np.repeat(np.arange(len(array)), pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False))
    try:
        elements = decoded(pc.list_flatten(array), column)
    except BadValueError as bad:
        mask = np.bincount(rows[bad.mask], minlength=len(array)) > 0
        raise BadValueError(int(rows[bad.row]), column, bad.value, bad.expected, mask) from None
    if pa.types.is_string(elements.type) or pa.types.is_large_string(elements.type):
        elements = pc.utf8_trim_whitespace(elements)
    values, codes = as_text(elements, column)
    kept = codes >= 0
    return values, codes[kept], np.bincount(rows[kept], minlength=len(array)).astype(np.int64)


def all_integers(array: pa.Array, column: str) -> bool:
    """Whether a column holds 64-bit integers, or text that reads back the same from them."""
    if pa.types.is_signed_integer(array.type):
        return True
    values = as_text(array, column)[0].drop_null()
    return bool(pc.all(are_integers(values), min_count=0).as_py())


def as_integers(values: pa.StringArray, codes: Codes, column: str) -> pa.Int64Array:
    """Give the distinct values of a key, as `as_text` has them, as integers.

    Raises:
        BadValueError: One is not an integer of 64 bits.
    """
    odd = pc.invert(are_integers(values)).fill_null(False).to_numpy(zero_copy_only=False)
    bad = np.append(odd, False)[codes]
    if bad.any():
        row = int(bad.argmax())
        expected = "an integer, as this key was in the training rows"
        raise BadValueError(row, column, values[codes[row]].as_py(), expected, bad)
    return values.cast(pa.int64())


def as_numbers(array: pa.Array, column: str) -> Floats:
    """Give a column as finite float64, NaN where it is missing.

    Raises:
        BadValueError: A value is not a finite number.
    """
    array = decoded(array, column)
    kind = array.type
    numbers: Floats
    if pa.types.is_dictionary(kind):
        array, kind = array.dictionary_decode(), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        numbers = _parse(array, column)
    elif pa.types.is_null(kind):
        numbers = np.full(len(array), np.nan)
    elif (
        pa.types.is_boolean(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
    ):
        array = array.cast(pa.int8()) if pa.types.is_boolean(kind) else array
        numbers = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    else:
        value = array[0].as_py() if len(array) else None
        raise BadValueError(0, column, value, f"a number: the column is of type {kind}")
    infinite: npt.NDArray[np.bool_] = np.isinf(numbers)
    if infinite.any():
        row = int(infinite.argmax())
        raise BadValueError(row, column, float(numbers[row]), "a finite number", infinite)
    return numbers


NOT_NUMBERS = ("nan", "+nan", "-nan")  # which are numbers to Arrow, and missing ones


def _parse(array: pa.Array, column: str) -> Floats:
    numbers: Floats
    present = pc.if_else(pc.is_in(array, pa.array(NULLS, array.type)), None, array)
    try:
        numbers = pc.utf8_trim_whitespace(present).cast(pa.float64()).to_numpy(zero_copy_only=False)
        return numbers
    except pa.ArrowInvalid:  # slower, and says where
        text = array.to_pandas()
    numbers = pd.to_numeric(text.str.strip(), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    missing = text.isna() | text.isin(NULLS) | text.str.strip().str.lower().isin(NOT_NUMBERS)
    bad = np.isnan(numbers) & ~missing.to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise BadValueError(row, column, text.iloc[row], "a number", bad)
    return numbers


def stable_hash(values: pa.StringArray | npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Hash text or integers to 64 bits, the same in every process, on every machine, in every version.

    Missing text has the hash of empty text.
    """
    array = values.fill_null("").to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values
    hashes: npt.NDArray[np.uint64] = pd.util.hash_array(array, categorize=False)
    return hashes
