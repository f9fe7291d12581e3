"""Text that is written as integers of 64 bits are, taken for these: smaller, and far faster to count and look up."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

SMALL = 1 << 21  # integers below lie in tables
INTEGER = r"^(0|-?[1-9][0-9]{0,18})$"  # as an integer of 64 bits is written, but that 19 digits can be too many
LARGEST, SMALLEST = "9223372036854775807", "-9223372036854775808"
NINE = ord("9")  # above which no letter of an integer lies
POWERS = 10 ** np.arange(1, 20, dtype=np.uint64)


def with_integers(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Give columns of text as integers for as long as every value in them reads back the same from one."""
    texts: set[str] = set()
    for batch in batches:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name, column in columns.items():
            if pa.types.is_string(column.type) and name not in texts:
                integers = as_written(column)
                if integers is None:
                    texts.add(name)
                else:
                    columns[name] = integers
        yield pa.RecordBatch.from_pydict(columns)


def are_integers(text: pa.Array) -> pa.BooleanArray:
    """Say which values read back the same from integers."""
    digits = pc.utf8_lpad(pc.utf8_ltrim(text, "-"), len(LARGEST), "0")
    fits = pc.or_(pc.less_equal(digits, LARGEST), pc.equal(text, SMALLEST))
    return pc.and_(pc.match_substring_regex(text, INTEGER), fits)


def integers_among(text: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Give the positions of the values that read back the same from integers, and these integers."""
    integers = as_written(text)
    if integers is not None:
        return np.arange(len(text)), integers.to_numpy()
    whole = are_integers(text).fill_null(False)
    return np.flatnonzero(whole.to_numpy(zero_copy_only=False)), text.filter(whole).cast(pa.int64()).to_numpy()


def as_written(text: pa.StringArray) -> pa.Int64Array | None:
    """Give text as integers, ``None`` where a value does not read back the same: ``007``, ``-0``, ``0x1F``."""
    try:
        integers = text.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    # No other text of an integer is as short as its own, but for the hexadecimal.
    letters = _letters(text)
    if letters.max(initial=0) > NINE or pc.sum(pc.binary_length(text), min_count=0).as_py() != _length(integers):
        return None
    return integers


def _letters(text: pa.StringArray) -> npt.NDArray[np.uint8]:
    """All bytes of the text."""
    _, offsets, letters = text.buffers()
    if letters is None:
        return np.empty(0, np.uint8)
    kind = np.int64 if pa.types.is_large_string(text.type) else np.int32
    first, last = np.frombuffer(offsets, kind)[[text.offset, text.offset + len(text)]]
    return np.frombuffer(letters, np.uint8)[first:last]


def _length(integers: pa.Int64Array) -> int:
    """How many letters it takes to write them."""
    numbers = integers.drop_null().to_numpy()
    sizes = np.abs(numbers).view(np.uint64)  # right for the smallest number, too, which has no positive one
    powers = POWERS[: np.searchsorted(POWERS, sizes.max(initial=0), side="right")]
    return len(numbers) + int((numbers < 0).sum()) + sum(int((sizes >= power).sum()) for power in powers)
