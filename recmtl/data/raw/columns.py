"""What a reader makes of raw columns: binary labels, and the rows of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.data.columns.values import Floats, as_text, read_numbers, stable_hash
from recmtl.errors import BadValueError

Mask = npt.NDArray[np.bool_]


class Derived(Protocol):
    """A column computed from a raw one; a value that does not parse is passed on, to be reported like any other."""

    @property
    def column(self) -> str:
        """The raw column."""

    @property
    def expected(self) -> str:
        """What a value of it should be, for errors."""

    def of(self, array: pa.Array) -> pa.Array:
        """Return the column."""


@dataclass(frozen=True)
class Flag:
    """1 where a raw column has one of some values, 0 where it has another, missing where it is missing.

    Args:
        column: The raw column.
        positive: The values that become 1, as text.
        negative: The values that become 0; ``None`` takes all others.
        expected: What a value should be, for errors.
    """

    column: str
    positive: Sequence[str]
    negative: Sequence[str] | None = None
    expected: str = "a label"

    def of(self, array: pa.Array) -> pa.Array:
        """Return the flags."""
        raw = pa.types.is_binary(array.type)
        text = array if raw else _canonical(array, self.column)
        positive = pc.is_in(text, _values(self.positive, raw))
        valid = text.is_valid()
        if self.negative is not None:
            valid = pc.or_(positive, pc.is_in(text, _values(self.negative, raw)))
        return _as_label(positive, valid, text)


@dataclass(frozen=True)
class AtLeast:
    """1 where a raw column of numbers is at least a threshold, 0 where it is below, missing where it is missing.

    Args:
        column: The raw column.
        threshold: The smallest number that becomes 1.
        strict: Whether a number must be larger than it.
    """

    column: str
    threshold: float
    strict: bool = False

    @property
    def expected(self) -> str:
        """What a value should be, for errors."""
        return "a number"

    def of(self, array: pa.Array) -> pa.Array:
        """Return the flags."""
        numbers, bad = lenient_numbers(array, self.column)
        positive = numbers > self.threshold if self.strict else numbers >= self.threshold
        text = array if pa.types.is_binary(array.type) else array.cast(pa.string())
        return _as_label(pa.array(positive), pa.array(~bad & ~np.isnan(numbers)), text)


class RowChoice(Protocol):
    """Which rows of a file belong to a split."""

    @property
    def columns(self) -> Sequence[str]:
        """The raw columns that decide."""

    def mask(self, batch: pa.RecordBatch) -> Mask:
        """Return whether each row belongs to it ``[rows]``."""


@dataclass(frozen=True)
class Between:
    """Rows with low ≤ number < high; one that is missing or does not parse is below all others.

    Args:
        column: The raw column of numbers.
        low: The lower bound; ``None`` for none.
        high: The upper bound; ``None`` for none.
    """

    column: str
    low: float | None = None
    high: float | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The raw column."""
        return (self.column,)

    def mask(self, batch: pa.RecordBatch) -> Mask:
        """Return whether each row belongs to the split ``[rows]``."""
        numbers, _ = lenient_numbers(batch.column(self.column), self.column)
        numbers = np.where(np.isnan(numbers), -np.inf, numbers)
        mask: Mask = np.ones(len(numbers), np.bool_)
        if self.low is not None:
            mask &= numbers >= self.low
        if self.high is not None:
            mask &= numbers < self.high
        return mask


@dataclass(frozen=True)
class HashShare:
    """Rows whose columns have a hash in [low, high), where all hashes are spread over [0, 1).

    Rows that are equal in the columns are in the same split, on every machine.
    """

    columns: Sequence[str]
    low: float
    high: float

    def mask(self, batch: pa.RecordBatch) -> Mask:
        """Return whether each row belongs to the split ``[rows]``."""
        parts = [_canonical(batch.column(name), name) for name in self.columns]
        text = pc.binary_join_element_wise(*parts, "\x1f", null_handling="replace", null_replacement="")
        place = stable_hash(text).astype(np.float64) / 2.0**64
        mask: Mask = (place >= self.low) & (place < self.high)
        return mask


def _canonical(array: pa.Array, column: str) -> pa.StringArray:
    """Return a column as text, one spelling for each value; bytes that are no UTF-8 are replaced."""
    if pa.types.is_binary(array.type):
        array = pa.array(array.to_pandas().str.decode("utf-8", errors="replace"), pa.string(), from_pandas=True)
    values, codes = as_text(array, column, ids=False)
    return values.take(pa.array(np.where(codes < 0, 0, codes), mask=codes < 0)) if len(values) else _missing(len(codes))


def _missing(rows: int) -> pa.StringArray:
    return pa.nulls(rows, pa.string())


def _values(words: Sequence[str], raw: bool) -> pa.Array:
    return pa.array([word.encode() if raw else word for word in words], pa.binary() if raw else pa.string())


def lenient_numbers(array: pa.Array, column: str) -> tuple[Floats, Mask]:
    """Return a column as numbers, NaN where it is missing or does not parse, and where it does not ``[rows]``."""
    bad: Mask = np.zeros(len(array), np.bool_)
    while True:
        try:
            return read_numbers(array, column), bad
        except BadValueError as error:
            if error.mask is None:
                raise
            bad |= error.mask
            array = pc.if_else(pa.array(bad), None, array)


def _as_label(positive: pa.Array, valid: pa.Array, text: pa.Array) -> pa.Array:
    """Return 1, 0 or missing; if a value is neither, all as text, with that value as it is."""
    if pc.all(pc.or_(valid, text.is_null()), min_count=0).as_py():
        return pc.if_else(valid, positive.cast(pa.float64()), None)
    one, zero = (b"1", b"0") if pa.types.is_binary(text.type) else ("1", "0")
    return pc.if_else(valid, pc.if_else(positive, one, zero), text)
