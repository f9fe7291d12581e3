"""Rows of a request to the inputs of the network: complete rows, columns, or candidates that share a user's fields."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from recmtl.errors import MAX_SHOWN, RequestError, shown
from recmtl.io.spellings import NullWords
from recmtl.serving.feature_encoders import (
    BinEncoder,
    Buckets,
    CategoryEncoder,
    Column,
    Entry,
    ListEncoder,
    Lookup,
    TimeEncoder,
    Vocabulary,
)
from recmtl.serving.number_encoder import NumberEncoder

ENCODER_FILE, VOCABULARY_FILE, RATES_FILE = "encoder.json", "vocabularies.json", "label_rates.npz"
NUMERIC_KIND, LIST_KIND = "numeric", "multi_categorical"
MANY_ROWS = 32
SPLITS = 64  # ways to split the fields between user and items that are kept

Arrays = dict[str, npt.NDArray[Any]]
Row = Mapping[str, Any]


class RequestEncoder:
    """Everything from raw values to the inputs of a network, by the files that `write_encoder` writes.

    It is not changed by a call, so that threads may share it.

    Attributes:
        fields: The names of the columns, in the order of the schema.
        kinds: The kind of the feature of each one.

    Args:
        folder: The folder of the model.
    """

    def __init__(self, folder: Path) -> None:
        content = json.loads((folder / ENCODER_FILE).read_text(encoding="utf-8"))
        vocabularies = json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8"))
        self.decimal = content["decimal"]
        self.nulls = NullWords(content["nulls"], self.decimal)
        self.ignored = frozenset(content["ignored"])
        self.entries: dict[str, Entry] = {entry["name"]: entry for entry in content["features"]}
        self.fields = tuple(self.entries)
        self.kinds = {name: str(entry["kind"]) for name, entry in self.entries.items()}
        self.places = Places(self.entries)
        lookups = {name: Vocabulary(categories, self.nulls) for name, categories in vocabularies.items()}
        self.encoders = {name: self._encoder(entry, lookups) for name, entry in self.entries.items()}
        self._rates = _read_rates(folder, content["rated"], self.places)
        self._fields_of = lru_cache(SPLITS)(lambda names: Fields(names, self))

    def _encoder(self, entry: Entry, lookups: Mapping[str, Lookup]) -> Any:
        """Return the encoder of a feature, ``None`` of a numeric one."""
        kind = entry["kind"]
        if kind == NUMERIC_KIND:
            return None
        if kind == "binned":
            return BinEncoder(entry, self.nulls, self.decimal)
        if kind == "timestamp":
            return TimeEncoder(entry, self.nulls)
        buckets = entry["hash_buckets"]
        lookup = Buckets(buckets, self.nulls) if buckets else lookups[entry["vocabulary"]]
        return ListEncoder(entry, lookup, self.nulls) if kind == LIST_KIND else CategoryEncoder(entry, lookup)

    def encode(self, columns: Mapping[str, Column]) -> Arrays:
        """Encode columns of raw values, all of the same length; further columns are ignored.

        Raises:
            RequestError: A column is missing, or a value does not parse.
        """
        missing = next((name for name in self.fields if name not in columns), None)
        if missing is not None:
            raise RequestError(f"there is no column {missing!r}", missing)
        given = [columns[name] for name in self.fields]
        return self._inputs([self._fields_of(self.fields).encode(given, len(given[0]))], len(given[0]))

    def encode_rows(self, rows: Sequence[Row]) -> Arrays:
        """Encode complete rows.

        Raises:
            RequestError: A row lacks a field, has an unknown one, or a value does not parse.
        """
        fields = self._fields_of(self.fields)
        return self._inputs([fields.encode(fields.columns(rows), len(rows))], len(rows))

    def encode_candidates(self, user: Row, items: Sequence[Row]) -> Arrays:
        """Encode rows that share the fields of a user, which are encoded once.

        Raises:
            RequestError: As `encode_rows`, or a field is in both parts.
        """
        if not isinstance(user, Mapping):
            raise RequestError(f"`user` must be an object with a value per field, not {shown(user)}")
        shared = self._fields_of(tuple(name for name in self.fields if name in user))
        own = self._fields_of(tuple(name for name in self.fields if name not in user))
        try:
            parts = [shared.encode(shared.columns([user], is_user=True), 1)]
        except RequestError as error:
            error.row = None
            raise
        return self._inputs([*parts, own.encode(own.columns(items, user), len(items))], len(items))

    def _inputs(self, parts: Sequence[Encoded], rows: int) -> Arrays:
        """Return the inputs by name, given parts of as many rows, or of one that is repeated."""
        found: Arrays = {}
        ids = np.empty((rows, self.places.ids), np.int64)
        rates = sum(table.shape[1] for _, table in self._rates)
        numeric = np.empty((rows, self.places.numbers + rates), np.float32)
        for part in parts:
            ids[:, part.fields.id_places], numeric[:, part.fields.number_places] = part.ids.T, part.numbers.T
        start = self.places.numbers
        for place, table in self._rates:
            numeric[:, start : start + table.shape[1]] = table[ids[:, place]]
            start += table.shape[1]
        found |= {"ids": ids} if ids.shape[1] else {}
        found |= {"numeric": numeric} if numeric.shape[1] else {}
        for part in parts:
            for place, values, lengths in part.lists:
                times = 1 if len(lengths) == rows else rows
                found[f"list_{place}"] = np.tile(np.array(values, np.int64), times)
                found[f"lengths_{place}"] = np.tile(np.array(lengths, np.int64), times)
        return found


class Places:
    """Where each feature stands among the ids, the numbers and the lists.

    Attributes:
        starts: The first column of ids, the number or the list of each feature.
        indicators: The column of the missing indicator of each feature that has one.
        ids: The number of columns of ids.
        numbers: The number of columns of numbers, without those of label rates.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self._entries, self.ids, lists = entries, 0, 0
        numeric = [name for name, entry in entries.items() if entry["kind"] == NUMERIC_KIND]
        indicated = [name for name in numeric if entries[name]["indicator"] is not None]
        self.starts = {name: place for place, name in enumerate(numeric)}
        self.indicators = {name: len(numeric) + place for place, name in enumerate(indicated)}
        self.numbers = len(numeric) + len(indicated)
        for name, entry in entries.items():
            if entry["kind"] == LIST_KIND:
                self.starts[name], lists = lists, lists + 1
            elif entry["kind"] != NUMERIC_KIND:
                self.starts[name], self.ids = self.ids, self.ids + self._width(entry)

    def of_ids(self, name: str) -> range:
        """Return the columns of ids of a feature, which is neither numeric nor a list."""
        return range(self.starts[name], self.starts[name] + self._width(self._entries[name]))

    @staticmethod
    def _width(entry: Entry) -> int:
        return len(entry["parts"]) if entry["kind"] == "timestamp" else 1


def _read_rates(folder: Path, rated: Sequence[str], places: Places) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """Return the label rates by id of each feature that has them, with its column of ids."""
    if not rated:
        return []
    with np.load(folder / RATES_FILE, allow_pickle=False) as arrays:
        return [(places.starts[name], arrays[str(place)]) for place, name in enumerate(rated)]


class Encoded:
    """The ids ``[own columns, rows]``, numbers ``[own columns, rows]`` and lists of some fields."""

    def __init__(
        self,
        fields: Fields,
        ids: npt.NDArray[np.int64],
        numbers: npt.NDArray[np.float32],
        lists: Sequence[tuple[int, Sequence[int], Sequence[int]]],
    ) -> None:
        self.fields, self.ids, self.numbers, self.lists = fields, ids, numbers, lists


class Fields:
    """Some of the fields, and what encodes them.

    Attributes:
        id_places: The columns of their ids.
        number_places: The columns of their numbers and missing indicators.

    Args:
        names: The fields.
        encoder: The encoder of all fields.
    """

    def __init__(self, names: Sequence[str], encoder: RequestEncoder) -> None:
        self.names, self._known, self._ignored = tuple(names), frozenset(names), encoder.ignored
        self._values = itemgetter(*names) if len(names) > 1 else lambda row: tuple(row[name] for name in names)
        self._each = [itemgetter(name) for name in names]
        kinds = [encoder.entries[name]["kind"] for name in names]
        self._lists = [(p, encoder.encoders[names[p]]) for p, kind in enumerate(kinds) if kind == LIST_KIND]
        self._list_places = [encoder.places.starts[own.name] for _, own in self._lists]
        self._categories = [
            (p, encoder.encoders[names[p]]) for p, kind in enumerate(kinds) if kind not in (NUMERIC_KIND, LIST_KIND)
        ]
        self.id_places = np.array([c for _, own in self._categories for c in encoder.places.of_ids(own.name)], np.int64)
        self._numeric = [p for p, kind in enumerate(kinds) if kind == NUMERIC_KIND]
        numeric = [encoder.entries[names[p]] for p in self._numeric]
        self._numbers = NumberEncoder(numeric, encoder.nulls, encoder.decimal) if numeric else None
        own_numbers = [encoder.places.starts[entry["name"]] for entry in numeric]
        indicated = [entry["name"] for entry in numeric if entry["indicator"] is not None]
        self.number_places = np.array([*own_numbers, *(encoder.places.indicators[n] for n in indicated)], np.int64)

    def encode(self, columns: Sequence[Column], rows: int) -> Encoded:
        """Encode the columns of these fields."""
        found = [ids for place, own in self._categories for ids in own.columns(columns[place])]
        ids = np.array(found, np.int64).reshape(len(found), rows)
        numbers = np.empty((0, rows), np.float32)
        if self._numbers:
            numbers = self._numbers([columns[place] for place in self._numeric])
        lists = zip(self._list_places, self._lists, strict=True)
        return Encoded(self, ids, numbers, [(place, *own.lists(columns[column])) for place, (column, own) in lists])

    def columns(self, rows: Sequence[Row], user: Row | None = None, is_user: bool = False) -> Sequence[Column]:
        """Return these fields of some rows as columns; `user` has the other fields, or is itself the only row.

        Raises:
            RequestError: A row lacks a field, or has another one that is no label, weight or key.
        """
        columns: list[Any]
        try:
            if len(rows) < MANY_ROWS:
                columns = list(zip(*map(self._values, rows), strict=True))
            else:  # few large objects in place of many small ones, which the garbage collector would go through
                columns = [list(map(value, rows)) for value in self._each]
        except (KeyError, TypeError, IndexError):
            self._refuse(rows, user)
        width = len(self.names)
        if set(map(len, rows)) - {width}:
            self._check_names(rows, user, is_user)
        return columns or [()] * width

    def _refuse(self, rows: Sequence[Row], user: Row | None) -> NoReturn:
        """Say which row is no object, or lacks which field."""
        for place, row in enumerate(rows):
            if not isinstance(row, Mapping):
                raise RequestError(
                    f"row {place} must be an object with a value per field, not {shown(row)}", None, place
                )
        self._check_names(rows, user)
        for place, row in enumerate(rows):
            missing = next((name for name in self.names if name not in row), None)
            if missing is not None:
                raise RequestError(f"row {place} lacks the field {missing!r}", missing, place)
        raise AssertionError("all rows have all fields")

    def _check_names(self, rows: Sequence[Row], user: Row | None, is_user: bool = False) -> None:
        """Refuse a field that is unknown, or that stands in `user` as well."""
        for place, row in enumerate(rows):
            for name in row:
                if name in self._known or name in self._ignored:
                    continue
                if user is not None and name in user:
                    raise RequestError(
                        f"the field {name!r} stands in `user` and in row {place}: give it once", name, place
                    )
                near = difflib.get_close_matches(str(name)[:MAX_SHOWN], self.names, 1)
                hint = f": did you mean {near[0]!r}?" if near else ""
                where = "`user`" if is_user else f"row {place}"
                raise RequestError(f"{where} has an unknown field {shown(name)}{hint}", str(name), place)
