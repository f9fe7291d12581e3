"""Columns of raw values to the ids and numbers that a network takes, one encoder for each kind of feature.

A column is a list of raw values, or an array. Everything that training has found out stands in the entry of a feature,
a part of `encoder.json`; `recmtl.serving.encoder_files` writes it.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from recmtl.errors import RequestError, shown
from recmtl.io.spellings import NullWords
from recmtl.serving.raw_values import (
    UnreadableError,
    calendar_parts,
    elements_of,
    number_of,
    seconds_of,
    text_of,
    time_parser,
)
from recmtl.serving.stable_hash import stable_hashes

UNKNOWN, MISSING, FIRST = 0, 1, 2  # ids of categories: two reserved ones, then the vocabulary
BY_INTEGER = 200_000  # categories of a vocabulary up to which integers are looked up without writing them as text
EXACT = 10**15  # integers below are equal to one float
CANONICAL = re.compile("0|-?[1-9][0-9]{0,14}", re.A)  # of integers below
BOOLEANS = frozenset((bool, np.bool_))
EXACT_TYPES = frozenset((float, int, np.float64, np.int64))  # of numbers that a float of 64 bits holds as they are
CACHED_TIMES = 1 << 14  # texts of a timestamp whose parts are kept

Entry = Mapping[str, Any]
Column = Sequence[Any] | npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


class Lookup(Protocol):
    """Categories to ids; `MISSING` stands for a missing one."""

    def ids(self, values: Sequence[Any]) -> list[int]:
        """Return the id of each value."""


def located(name: str, values: Column, read: Callable[[Any], Any]) -> Any:
    """Read a column; the error of a value that does not parse names the column, the value and its row."""
    try:
        return read(values)
    except UnreadableError:
        for row, value in enumerate(values):
            try:
                read([value])
            except UnreadableError as error:
                raise RequestError(f"column {name!r}: {shown(value)} is not {error}", name, row, value) from None
        raise


class Vocabulary(dict[Any, int]):
    """Ids of categories by their text, in small vocabularies by integers, too; any other value is read when it comes.

    Args:
        categories: The categories, in the order of their ids; ``None`` in the place of a free id.
        nulls: The words for a missing value.
    """

    def __init__(self, categories: Sequence[str | None], nulls: NullWords) -> None:
        ids: dict[Any, int] = dict(zip(categories, range(FIRST, FIRST + len(categories)), strict=True))
        ids.pop(None, None)
        self._nulls = nulls
        self._hidden = {word: ids.get(word, UNKNOWN) for word in nulls}  # of values that are written otherwise
        self._has_integers = len(categories) <= BY_INTEGER
        if self._has_integers:
            ids |= {int(c): ids[c] for c in [*ids] if c[-1:].isdigit() and CANONICAL.fullmatch(c)}
        super().__init__(ids | dict.fromkeys((None, *nulls, *nulls.numbers), MISSING))

    def ids(self, values: Sequence[Any]) -> list[int]:
        """Return the id of each value."""
        if not BOOLEANS.isdisjoint(map(type, values)):  # which are equal to 0 and 1
            values = [text_of(v, ()) if type(v) in BOOLEANS else v for v in values]
        try:
            return list(map(self.__getitem__, values))
        except TypeError:  # a value without a hash, such as a list, which is no category
            return [*map(self._id_of, values)]

    def _id_of(self, value: Any) -> int:
        try:
            return self[value]
        except TypeError:  # as above; a tuple may hold lists
            return self.__missing__(value)

    def __missing__(self, value: Any) -> int:
        """Return the id of a value that is no category as it is."""
        if type(value) is int and -EXACT < value < EXACT:
            if self._has_integers:
                return UNKNOWN
            return self.get(str(value), UNKNOWN)
        text = text_of(value, self._nulls)
        if text is None:
            return MISSING
        return self._hidden[text] if text in self._hidden else self.get(text, UNKNOWN)


class Buckets:
    """Categories by their hash."""

    def __init__(self, buckets: int, nulls: NullWords) -> None:
        self._buckets, self._nulls = buckets, nulls

    def ids(self, values: Sequence[Any]) -> list[int]:
        """Return the id of each value."""
        texts = [text_of(value, self._nulls) for value in values]
        distinct = list(dict.fromkeys(text for text in texts if text is not None))
        hashes = zip(distinct, stable_hashes(distinct), strict=True)
        ids: dict[str | None, int] = {text: FIRST + found % self._buckets for text, found in hashes}
        ids[None] = MISSING
        return [ids[text] for text in texts]


class CategoryEncoder:
    """One category per row: one column of ids."""

    def __init__(self, entry: Entry, lookup: Lookup) -> None:
        self.name, self._lookup = entry["name"], lookup
        self._missing, self._constant = entry["missing_id"], entry["constant"]

    def columns(self, values: Column) -> list[list[int]]:
        """Return the ids of the rows."""
        ids = located(self.name, plain_values(self.name, values), self._lookup.ids)
        if self._constant is not None:
            return [list(self._constant) * len(ids)]
        if self._missing != MISSING and MISSING in ids:
            ids = [self._missing if i == MISSING else i for i in ids]
        return [ids]


def plain_values(name: str, values: Column) -> Sequence[Any]:
    """Return a column as a list; of floats narrower than 64 bits their text, as it is shorter."""
    if not isinstance(values, np.ndarray):
        return values
    if values.dtype.kind == "f" and values.dtype.itemsize < 8:
        texts: list[str | None] = located(name, values, lambda part: [text_of(value, ()) for value in part])
        return texts
    return list(values) if values.dtype.kind in "Mm" else values.tolist()


class ListEncoder:
    """Any number of categories per row: the ids of all rows one after the other, and their lengths."""

    def __init__(self, entry: Entry, lookup: Lookup, nulls: NullWords) -> None:
        self.name, self._lookup, self._nulls = entry["name"], lookup, nulls
        self._separator, self._longest, self._keep = entry["separator"], entry["longest"], entry["keep"]
        self._missing, self._constant = entry["missing_id"], entry["constant"]

    def lists(self, values: Column) -> tuple[list[int], list[int]]:
        """Return the ids of the rows and the lengths of their lists, at least 1."""
        rows: list[list[int]] = located(self.name, plain_values(self.name, values), self._rows)
        if self._constant is not None:
            rows = [self._constant] * len(rows)
        return [i for row in rows for i in row], list(map(len, rows))

    def _rows(self, values: Sequence[Any]) -> list[list[int]]:
        lists = [elements_of(value, self._separator, self._nulls) for value in values]
        ids, found, start = self._lookup.ids([element for row in lists for element in row]), [], 0
        for row in lists:
            kept = [i for i in ids[start : start + len(row)] if i != MISSING]
            start += len(row)
            cut = kept[-self._longest :] if self._keep == "last" else kept[: self._longest]
            found.append(cut or [self._missing])
        return found


class BinEncoder:
    """One number per row: the id of its bin."""

    def __init__(self, entry: Entry, nulls: NullWords, decimal: str) -> None:
        self.name, self._edges = entry["name"], entry["edges"]
        self._missing, self._constant = entry["missing_id"], entry["constant"]
        self._low, self._high = limits(entry)
        self._reader = NumberReader(nulls, decimal)

    def columns(self, values: Column) -> list[list[int]]:
        """Return the ids of the rows; a value equal to an edge belongs to the lower bin."""
        numbers = self._reader.read([self.name], [values])[0].tolist()
        edges, low, high = self._edges, self._low, self._high
        if self._constant is not None:
            return [list(self._constant) * len(numbers)]
        return [
            [
                self._missing if number != number else FIRST + bisect_left(edges, min(max(number, low), high))
                for number in numbers
            ]
        ]


def limits(entry: Entry) -> tuple[float, float]:
    """Return the limits to which a number is clipped, infinite without any."""
    low, high = entry["clip"] or (None, None)
    return -np.inf if low is None else low, np.inf if high is None else high


class NumberReader:
    """Columns of raw values to numbers, finite or NaN.

    Args:
        nulls: The words for a missing value.
        decimal: The decimal mark of text.
    """

    def __init__(self, nulls: NullWords, decimal: str) -> None:
        self._nulls, self._decimal = nulls, decimal
        self._null_numbers = [float(number) for number in nulls.numbers]
        # Others are the same number in every type, and no boolean.
        self._by_type = any(number in (0, 1) or number % 1 for number in nulls.numbers)

    def read(self, names: Sequence[str], columns: Sequence[Column]) -> Floats:
        """Return the numbers of some columns ``[columns, rows]``, given their names for errors."""
        parts, compared = list[Any](), list[int]()
        for place, (name, column) in enumerate(zip(names, columns, strict=True)):
            if isinstance(column, np.ndarray) and column.dtype.kind in "fiub":
                parts.append(self._present(column).astype(np.float64).tobytes())
                continue
            try:
                values = array("d", column)
            except (TypeError, OverflowError, ValueError):  # text, nothing, or a NaN that signals
                parts.append(array("d", located(name, column, self._parsed)))
                continue
            if self._by_type and not EXACT_TYPES.issuperset(map(type, column)):
                values = array("d", located(name, column, self._parsed))
            else:
                compared.append(place)
            parts.append(values)
        numbers = np.frombuffer(bytearray().join(parts)).reshape(len(columns), -1)
        if self._null_numbers and compared:
            self._drop_nulls(numbers, compared)
        if np.isinf(numbers).any():
            for name, column in zip(names, columns, strict=True):
                located(name, column, self._parsed)
        return numbers

    def _drop_nulls(self, numbers: Floats, places: list[int]) -> None:
        """Write NaN in place of the numbers that stand for missing values in some columns."""
        found = np.zeros(numbers.shape, np.bool_)
        for number in self._null_numbers:
            found |= numbers == number
        if found.any():
            numbers[places] = np.where(found[places], np.nan, numbers[places])

    def _present(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return an array with NaN in place of the numbers that stand for missing values, as its type rounds them."""
        if not self._nulls.numbers or values.dtype.kind == "b":
            return values
        if values.dtype.kind == "f":
            with np.errstate(over="ignore"):
                others = np.array(self._null_numbers).astype(values.dtype)
            others = others[np.isfinite(others)]
        else:
            limits = np.iinfo(values.dtype)
            whole = (n for n in self._nulls.numbers if isinstance(n, int) and limits.min <= n <= limits.max)
            others = np.array([*whole], values.dtype)
        return np.where(np.isin(values, others), np.nan, values)

    def _parsed(self, values: Sequence[Any]) -> list[float]:
        return [number_of(value, self._nulls, self._decimal) for value in values]


class TimeEncoder:
    """A date or time per row: a column of ids for each calendar part."""

    def __init__(self, entry: Entry, nulls: NullWords) -> None:
        self.name, self._nulls, self._parts = entry["name"], nulls, entry["parts"]
        self._missing, self._constants = entry["missing_id"], entry["constants"]  # of each part, or nothing
        self._parse = time_parser(entry["format"])
        self._ids_of_text = lru_cache(CACHED_TIMES)(self._ids_of)

    def columns(self, values: Column) -> list[list[int]]:
        """Return the ids of each part."""
        rows = located(self.name, list(values) if isinstance(values, np.ndarray) else values, self._rows)
        parts = zip(*rows, strict=True) if rows else ([] for _ in self._parts)
        constants = zip(self._constants, parts, strict=True)
        return [list(ids) if constant is None else [constant] * len(rows) for constant, ids in constants]

    def _rows(self, values: Sequence[Any]) -> list[tuple[int, ...]]:
        return [self._ids_of_text(value) if type(value) is str else self._ids_of(value) for value in values]

    def _ids_of(self, value: Any) -> tuple[int, ...]:
        seconds = seconds_of(value, self._nulls, self._parse)
        if seconds is None:
            return (self._missing,) * len(self._parts)
        parts = calendar_parts(seconds)
        return tuple(FIRST + parts[part] for part in self._parts)
