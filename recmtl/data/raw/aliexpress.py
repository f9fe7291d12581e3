"""AliExpress: user and item files of a country, or the CSV files that the field passes around."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from recmtl.data.raw.aliexpress_layout import (
    CLICK,
    CONVERSION,
    ITEM_COLUMNS,
    PROCESSED_COLUMNS,
    RAW_LABEL,
    SEARCH_ID,
    USER_COLUMNS,
)
from recmtl.data.raw.base import RawFiles, RawReader, Sources, join_names, open_csv, plain_name
from recmtl.data.raw.columns import Flag
from recmtl.data.raw.raw_source import Join, RawSource
from recmtl.data.sources.base import Source
from recmtl.errors import DataError
from recmtl.io.archives import Member
from recmtl.schema import SplitName
from recmtl.schema.text_format import TextFormat

COUNTRIES = {country.lower(): country for country in ("NL", "ES", "FR", "US", "RU")}
USER_WORDS = dict.fromkeys(("user", "users", "usr", "usrs"), "user")
ITEM_WORDS = dict.fromkeys(("item", "items", "itm", "itms", "impression", "impressions"), "item")
SPLIT_WORDS: Mapping[str, SplitName] = {"train": "train", "test": "test"}
PATH_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # also in NamesLikeThis
EXPECTED = "0 (shown), 1 (clicked) or 2 (bought)"
LABELS = {
    CLICK: Flag(RAW_LABEL, ("1", "2"), ("0",), EXPECTED),
    CONVERSION: Flag(RAW_LABEL, ("2",), ("0", "1"), EXPECTED),
}


class AliExpress(RawReader):
    """User and item files of a country, joined by search, or the same rows as CSV files with a header.

    Files of the site are recognized by the last matching word in their path: ``user`` or ``usr``, ``item``, ``itm`` or
    ``impression``; ``train`` or ``test``; and the country. A file without a country in its path matches any country.
    """

    name = "aliexpress"
    title = "AliExpress"
    cards = ("aliexpress",)
    site = "https://tianchi.aliyun.com/dataset/74690"
    license = "not confirmed: read the terms of the site"
    files = "its user and item files of train and test, or train.csv and test.csv in the processed layout"
    parts = tuple(COUNTRIES.values())
    split = "the site's training and test files, by time; validation rows are held out of the training searches"
    memory = "the user file of a split, one row a search: 32 columns of 8 bytes"

    def opens(self, place: Path, part: str | None) -> Callable[[str], bool]:
        """Return whether a name fits the country."""
        return lambda name: _last_word(f"{place.resolve().name}/{name}", COUNTRIES) in (part, None)

    def sources(self, files: RawFiles, part: str | None) -> Sources:
        """Return the rows of each split."""
        fits = self.opens(files.place, part)
        fitting = [member for member in files.members if fits(member.name)]
        return _processed(files.place, fitting) or {
            split: join_items(
                *(
                    _open_side(files, fitting, side, split, part, columns)
                    for side, columns in (("user", USER_COLUMNS), ("item", ITEM_COLUMNS))
                )
            )
            for split in SPLIT_WORDS.values()
        }


def join_items(users: Source, items: Source) -> RawSource:
    """Return items with the user of their search, click and conversion, as in the processed layout."""
    return RawSource(items, [Join(users, SEARCH_ID, required=True)], LABELS, columns=PROCESSED_COLUMNS)


def _processed(place: Path, members: Sequence[Member]) -> Sources:
    """Return the files of the processed layout, empty if there are none; a folder with both is read as the site's."""
    if any(_side_and_split(member.name)[0] for member in members):
        return {}
    names: Sequence[SplitName] = ("train", "valid", "test")
    found: dict[SplitName, Member] = {}
    for split in names:
        matching = [m for m in members if plain_name(m).lower() == f"{split}.csv"]
        if len(matching) > 1:
            raise DataError(
                f"expected one {split}.csv in {str(place)!r}, found {len(matching)}: {join_names(matching)}"
            )
        if matching:
            found[split] = replace(matching[0], name=str(place / matching[0].name))
    if not {"train", "test"} <= found.keys():
        return {}
    return {split: open_csv(member, columns=PROCESSED_COLUMNS) for split, member in found.items()}


def _open_side(
    files: RawFiles, fitting: Sequence[Member], side: str, split: str, country: str | None, columns: Sequence[str]
) -> Source:
    matching = [m for m in fitting if _side_and_split(m.name) == (side, split)]
    if len(matching) != 1:
        names = f"{len(matching)}: {join_names(matching)}" if matching else f"none among {join_names(files.members)}"
        place = f"expected one {side} file for {split} of {country} in {str(files.place)!r}, found {names}"
        raise DataError(f"{place}; {files.wanted}")
    member = replace(matching[0], name=str(files.place / matching[0].name))
    return open_csv(member, TextFormat(",", columns))


def _side_and_split(name: str) -> tuple[str | None, str | None]:
    return _last_word(name, USER_WORDS | ITEM_WORDS), _last_word(name, SPLIT_WORDS)


def _last_word(name: str, meanings: Mapping[str, str]) -> str | None:
    words = (word.lower() for word in reversed(PATH_WORD.findall(name)))
    return next((meanings[word] for word in words if word in meanings), None)
