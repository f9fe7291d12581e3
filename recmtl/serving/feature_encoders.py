"""Columns of raw values to the ids and numbers that a network takes, one encoder for each kind of feature.

A column is a list of raw values, or an array. Everything that training has found out stands in the entry of a feature,
a part of `encoder.json`; `recmtl.serving.encoder_files` writes it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from recmtl.errors import RequestError, shown
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
EXACT_DIGITS = 15  # of an integer that a float holds exactly
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


class Vocabulary:
    """Categories by their text, and small vocabularies by integers, too.

    Args:
        categories: The categories, in the order of their ids; ``None`` in the place of a free id.
        nulls: The words for a missing value.
    """

    def __init__(self, categories: Sequence[str | None], nulls: Collection[str]) -> None:
        ids: dict[Any, int] = dict(zip(categories, range(FIRST, FIRST + len(categories)), strict=True))
        ids.pop(None, None)
        self._nulls = frozenset(nulls)
        self._hidden = {word: ids.get(word, UNKNOWN) for word in nulls}  # of values that are written otherwise
        if len(categories) <= BY_INTEGER:  # but 0 and 1, which `False` and `True` are equal to
            digits = (c for c in ids if c.isdigit() and c.isascii() and c[0] != "0" and c != "1")
            ids |= {int(c): ids[c] for c in [*digits] if len(c) <= EXACT_DIGITS}
        self._ids = ids | dict.fromkeys((None, *nulls), MISSING)

    def ids(self, values: Sequence[Any]) -> list[int]:
        """Return the id of each value."""
        found: list[Any]
        try:
            found = list(map(self._ids.get, values))
        except TypeError:  # a value that has no hash, such as a list
            found = [None] * len(values)
        if None in found:
            find = self._find
            return [find(value) if i is None else i for i, value in zip(found, values, strict=True)]
        return found

    def _find(self, value: Any) -> int:
        text = text_of(value, self._nulls)
        if text is None:
            return MISSING
        return self._hidden[text] if text in self._hidden else self._ids.get(text, UNKNOWN)


class Buckets:
    """Categories by their hash."""

    def __init__(self, buckets: int, nulls: Collection[str]) -> None:
        self._buckets, self._nulls = buckets, frozenset(nulls)

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

    def __init__(self, entry: Entry, lookup: Lookup, nulls: Collection[str]) -> None:
        self.name, self._lookup, self._nulls = entry["name"], lookup, frozenset(nulls)
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

    def __init__(self, entry: Entry, nulls: Collection[str], decimal: str) -> None:
        self.name, self._edges = entry["name"], entry["edges"]
        self._missing, self._constant = entry["missing_id"], entry["constant"]
        self._low, self._high = limits(entry)
        self._read = number_reader(entry["name"], nulls, decimal)

    def columns(self, values: Column) -> list[list[int]]:
        """Return the ids of the rows; a value equal to an edge belongs to the lower bin."""
        numbers, edges, low, high = self._read(values), self._edges, self._low, self._high
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


def number_reader(name: str, nulls: Collection[str], decimal: str) -> Callable[[Column], Sequence[float]]:
    """Return a function from a column to its numbers, finite or NaN."""
    words = frozenset(nulls)

    def parsed(values: Sequence[Any]) -> list[float]:
        return [number_of(value, words, decimal) for value in values]

    def read(values: Column) -> Sequence[float]:
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
            numbers = array("d", values.astype(np.float64).tobytes())
        else:
            try:
                numbers = array("d", values)
            except (TypeError, OverflowError):  # text, or nothing
                return located(name, values, parsed)  # type: ignore[no-any-return]
        if np.isinf(np.frombuffer(numbers)).any():
            located(name, values, parsed)
        return numbers

    return read


class TimeEncoder:
    """A date or time per row: a column of ids for each calendar part."""

    def __init__(self, entry: Entry, nulls: Collection[str]) -> None:
        self.name, self._nulls, self._parts = entry["name"], frozenset(nulls), entry["parts"]
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
