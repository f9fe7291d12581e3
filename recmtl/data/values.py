"""Columns of any Arrow type as text, numbers, lists or hashes: the same values whatever the source."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.errors import BadValueError

NULLS = ("", "nan", "NaN", "null", "NULL")  # the texts that mean "missing"

INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"  # as an integer of 64 bits is written

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def as_text(array: pa.Array) -> tuple[pa.StringArray, Codes]:
    """Give a column as its distinct values in text, and the position of each row's value among them (-1: missing).

    Integers are written exactly, whole floats as integers, booleans as ``true`` and ``false``: one category has one
    text whatever the source. A category may appear twice among the values.

    Shape:
        - codes: ``[rows]``
    """
    encoded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
    values = _text_of(encoded.dictionary)
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    empty = values.is_null().to_numpy(zero_copy_only=False) | (pc.fill_null(pc.equal(values, ""), True)).to_numpy(
        zero_copy_only=False
    )
    if empty.any():
        codes = np.where(np.append(empty, True)[codes], -1, codes)
    return values, codes


def _text_of(values: pa.Array) -> pa.StringArray:
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
        whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**63))
        integers = pc.if_else(whole, values, None).cast(pa.float64()).cast(pa.int64(), safe=False).cast(pa.string())
        return pc.if_else(whole, integers, values.cast(pa.string())).cast(pa.string())
    return values.cast(pa.string())


def as_lists(array: pa.Array, separator: str) -> tuple[pa.StringArray, Codes, Codes]:
    """Give a column of lists as distinct values, the codes of all elements, and the length of each row's list.

    Text is split at the separator, blanks around an element are dropped; missing elements are left out.

    Shape:
        - codes: ``[Σ lengths]``
        - lengths: ``[rows]``
    """
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)):
        values, codes = as_text(array)
        array = pc.split_pattern(values, separator).take(pa.array(np.where(codes < 0, 0, codes), mask=codes < 0))
    rows = pc.list_parent_indices(array).to_numpy(zero_copy_only=False)
    elements = pc.list_flatten(array)
    if pa.types.is_string(elements.type) or pa.types.is_large_string(elements.type):
        elements = pc.utf8_trim_whitespace(elements)
    values, codes = as_text(elements)
    kept = codes >= 0
    return values, codes[kept], np.bincount(rows[kept], minlength=len(array)).astype(np.int64)


def all_integers(array: pa.Array) -> bool:
    """Whether a column holds 64-bit integers, or text that reads back the same from them."""
    if pa.types.is_integer(array.type):
        return True
    values, _ = as_text(array)
    return bool(pc.all(pc.match_substring_regex(values.drop_null(), INTEGER), min_count=0).as_py())


def as_numbers(array: pa.Array, column: str) -> Floats:
    """Give a column as finite float64, NaN where it is missing.

    Raises:
        BadValueError: A value is not a finite number.
    """
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
        raise BadValueError(0, column, value, f"a number, but of type {kind}")
    infinite: npt.NDArray[np.bool_] = np.isinf(numbers)
    if infinite.any():
        row = int(infinite.argmax())
        raise BadValueError(row, column, float(numbers[row]), "a finite number")
    return numbers


def _parse(array: pa.Array, column: str) -> Floats:
    text = array.to_pandas()
    numbers: Floats = pd.to_numeric(text.str.strip(), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.isnan(numbers) & text.notna().to_numpy() & ~text.isin(NULLS).to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise BadValueError(row, column, text.iloc[row], "a number")
    return numbers


def stable_hash(values: pa.Array | npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Hash text or integers to 64 bits, the same in every process, on every machine, in every version."""
    array = values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values
    hashes: npt.NDArray[np.uint64] = pd.util.hash_array(array, categorize=False)
    return hashes
