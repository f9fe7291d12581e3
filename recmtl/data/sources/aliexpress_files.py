"""Find the raw files of AliExpress in a download: a folder, a zip, or zips within zips."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from recmtl.data.sources.aliexpress import RawSource
from recmtl.data.sources.aliexpress_layout import ITEM_COLUMNS, USER_COLUMNS
from recmtl.data.sources.csv import CsvSource
from recmtl.errors import DataError, unreadable
from recmtl.io.archives import ZIP_ERRORS, Member, members, on_disk
from recmtl.schema.text_format import TextFormat

COUNTRIES = {country.lower(): country for country in ("NL", "ES", "FR", "US", "RU")}
USER_WORDS = dict.fromkeys(("user", "users", "usr", "usrs"), "user")
ITEM_WORDS = dict.fromkeys(("item", "items", "itm", "itms", "impression", "impressions"), "item")
SPLIT_WORDS = {"train": "train", "test": "test"}
PATH_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # also in NamesLikeThis
MAX_LISTED = 12  # in an error


@contextmanager
def open_raw(location: str | Path, country: str) -> Iterator[dict[str, RawSource]]:
    """Open the raw files of a country as sources ``train`` and ``test`` in the processed layout.

    Files of a folder, of a zip, or of zips within are recognized by the last matching word in their path: ``user`` or
    ``usr``, ``item``, ``itm`` or ``impression``; ``train`` or ``test``; and the country (NL, ES, FR, US or RU). A file
    without a country in its path matches any country.
    """
    path, code = on_disk(location), country.upper()
    if code not in COUNTRIES.values():
        raise DataError(f"`country` must be one of {', '.join(COUNTRIES.values())}, got {country!r}")
    with ExitStack() as stack:

        def fits(name: str) -> bool:
            return _last_word(f"{path.resolve().name}/{name}", COUNTRIES) in (code, None)

        found = list(members(path, fits, stack))
        fitting = [member for member in found if fits(member.name)]

        def open_csv(side: str, split: str, columns: Sequence[str]) -> CsvSource:
            matching = [m for m in fitting if _side_and_split(m.name) == (side, split)]
            if len(matching) != 1:
                names = f"{len(matching)}: {_join_names(matching)}" if matching else f"none among {_join_names(found)}"
                raise DataError(f"expected one {side} file for {split} of {code} in {str(path)!r}, found {names}")
            member = replace(matching[0], name=str(path / matching[0].name))
            try:
                return CsvSource(member, TextFormat(",", columns))
            except (OSError, *ZIP_ERRORS) as error:
                raise unreadable(member.name, error) from error

        yield {
            split: RawSource(open_csv("user", split, USER_COLUMNS), open_csv("item", split, ITEM_COLUMNS))
            for split in SPLIT_WORDS
        }


def _side_and_split(name: str) -> tuple[str | None, str | None]:
    return _last_word(name, USER_WORDS | ITEM_WORDS), _last_word(name, SPLIT_WORDS)


def _last_word(name: str, meanings: Mapping[str, str]) -> str | None:
    words = (word.lower() for word in reversed(PATH_WORD.findall(name)))
    return next((meanings[word] for word in words if word in meanings), None)


def _join_names(files: Sequence[Member]) -> str:
    names = ", ".join(repr(m.name) for m in files[:MAX_LISTED])
    return f"{names} and {len(files) - MAX_LISTED} more" if len(files) > MAX_LISTED else names or "no files"
