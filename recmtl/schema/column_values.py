"""The distinct values of a column, as the rules of inference look at them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recmtl.io.spellings import DECIMAL_NUMBER, MISSING_NUMBERS
from recmtl.schema.text_format import rounded_ids, with_decimal_point

Floats = npt.NDArray[np.float64]
BOOLEANS, MAX_SPELLINGS = ("true", "false"), 8  # in any case
NUMBER = rf"^{DECIMAL_NUMBER}$|^[+-]?(?i:inf|infinity)$"
INTEGER, EXACT = r"^[+-]?[0-9]+$", 2.0**53
LEADING_ZERO = r"^[+-]?0[0-9]+$"  # of an id rather than of a number
# 1,234 or 1,5; 1.5 where the decimal mark is the comma
SEPARATED = r"^[+-]?[0-9]{1,3}([,.' ][0-9]{3})+([.,][0-9]+)?$|^[+-]?[0-9]+[.,][0-9]+([eE][+-]?[0-9]+)?$"


@dataclass(frozen=True)
class Numbers:
    """The numbers of a column.

    Args:
        values: Each distinct finite number once ``[distinct]``.
        whole: Whether all are whole: pandas turns integers with a missing value into floats.
        exact: Whether float64 tells them apart: it does not for integers beyond 2⁵³.
    """

    values: Floats
    whole: bool
    exact: bool

    @classmethod
    def of(cls, values: Floats, integers: bool) -> Self | None:
        """Return the finite numbers among values, which may be written as integers; ``None`` if there is none."""
        values = np.unique(values[np.isfinite(values)])
        if not len(values):
            return None
        whole = bool((np.floor(values) == values).all())
        return cls(values, whole, not (integers and np.abs(values).max() > EXACT))

    @property
    def low(self) -> float:
        """The lowest number."""
        return float(self.values.min())

    @property
    def high(self) -> float:
        """The highest number."""
        return float(self.values.max())


class ColumnValues:
    """The distinct values of a column, and how many rows have each.

    Args:
        name: The column.
        column: Its rows. Nulls and NaN are missing.
        decimal: The decimal mark of numbers in text.
    """

    def __init__(self, name: str, column: pa.ChunkedArray, decimal: str = ".") -> None:
        self.name, self.rows, self.decimal = name, len(column), decimal
        self.values = _plain(column)  # without missing ones
        self.type: pa.DataType = self.values.type
        uncounted = pa.types.is_nested(self.type) or isinstance(self.type, pa.BaseExtensionType)
        counted = None if uncounted else pc.value_counts(self.values)
        self.unique: pa.Array = self.values.slice(0, 0) if counted is None else counted.field("values")
        counts = [] if counted is None else counted.field("counts").to_numpy()
        self._counts = np.asarray(counts, np.int64)

    @property
    def present(self) -> int:
        """The number of rows with a value."""
        return len(self.values)

    @property
    def distinct(self) -> int:
        """The number of distinct values."""
        return len(self.unique)

    @property
    def all_distinct(self) -> bool:
        """Whether no two rows have the same value."""
        return self.distinct == self.present

    @property
    def is_text(self) -> bool:
        """Whether the values are text."""
        return bool(pa.types.is_string(self.type))

    @property
    def is_boolean(self) -> bool:
        """Whether all values are true or false, perhaps as text."""
        if self.is_text and self.distinct <= MAX_SPELLINGS:
            return set(pc.utf8_lower(self.unique).to_pylist()) <= set(BOOLEANS)
        return bool(pa.types.is_boolean(self.type))

    @cached_property
    def numbers(self) -> Numbers | None:
        """The numbers, if there is no other value than those and, in text, words for a missing number."""
        if self._is_number:
            return Numbers.of(self._floats, integers=bool(pa.types.is_integer(self.type)))
        if not self.is_text or not len(self.number_words) or len(self.other_words) or self.has_leading_zeros:
            return None
        return Numbers.of(self._floats, integers=len(self.matching(INTEGER)) == len(self.number_words))

    @cached_property
    def rounded(self) -> bool:
        """Whether a value is a whole float that stands for several integers: an id, if it is one, is lost."""
        return bool(pc.any(rounded_ids(self.unique)).as_py())

    @property
    def infinite(self) -> int:
        """The number of rows of a column of numbers that are infinite, or have too many digits for a float."""
        values = self.number_words if self.is_text else self.unique
        return int(self.rows_with(values)[np.isinf(self._floats)].sum()) if np.isinf(self._floats).any() else 0

    @cached_property
    def _floats(self) -> Floats:
        """Each distinct number, or number in text ``[numbers]``."""
        if self._is_number:
            found: Floats = self.unique.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
            return found
        words = with_decimal_point(self.number_words, self.decimal)
        return np.array([float(word) for word in words.to_pylist()])

    @property
    def _is_number(self) -> bool:
        """Whether the type of the values is one of numbers."""
        return any(check(self.type) for check in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal))

    @cached_property
    def number_words(self) -> pa.Array:
        """The values of a text column that are numbers."""
        try:
            pc.utf8_trim_whitespace(with_decimal_point(self.unique, self.decimal)).cast(pa.float64())
        except pa.ArrowInvalid:
            return self.matching(NUMBER if self.decimal == "." else NUMBER.replace(r"\.", self.decimal))
        return self.unique

    @cached_property
    def other_words(self) -> pa.Array:
        """The values of a text column that are neither numbers nor words for a missing number."""
        known = pa.concat_arrays([self.number_words, pa.array(MISSING_NUMBERS, self.type)])
        return self.unique.filter(pc.invert(pc.is_in(self.unique, known)))

    @property
    def has_leading_zeros(self) -> bool:
        """Whether a value of a text column is made of digits after a zero: ``007``."""
        return len(self.matching(LEADING_ZERO)) > 0

    def matching(self, pattern: str) -> pa.Array:
        """Return the values of a text column that match a regular expression, but for blanks around them."""
        return self.unique.filter(pc.match_substring_regex(pc.utf8_trim_whitespace(self.unique), pattern))

    def rows_with(self, values: pa.Array) -> npt.NDArray[np.int64]:
        """Return the number of rows that have each of some of the distinct values ``[values]``."""
        rows: npt.NDArray[np.int64] = self._counts[pc.index_in(values, self.unique).to_numpy()]
        return rows

    def count(self, values: pa.Array) -> int:
        """Return the number of rows that have one of some values."""
        return int(self._counts[pc.is_in(self.unique, values).to_numpy(zero_copy_only=False)].sum())


def _plain(column: pa.ChunkedArray) -> pa.Array:
    """Return the values of a column without missing ones: text as strings, dictionaries decoded."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = pa.chunked_array([chunk.dictionary_decode() for chunk in column.chunks], kind)
    if kind in (pa.large_string(), pa.binary(), pa.large_binary()):
        try:
            column = column.cast(pa.string())
        except pa.ArrowInvalid:  # not UTF-8
            return column.drop_null().combine_chunks()
    values = column.drop_null()
    if pa.types.is_float16(kind):
        values = values.cast(pa.float32())
    if pa.types.is_floating(values.type):
        values = values.filter(pc.invert(pc.is_nan(values)))
    return pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
