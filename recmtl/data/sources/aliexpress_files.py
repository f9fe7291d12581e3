"""Find the raw files of AliExpress in a download: a folder, a zip, or zips within zips."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from recmtl.data.sources.aliexpress import RawSource
from recmtl.data.sources.aliexpress_layout import ITEM_COLUMNS, USER_COLUMNS
from recmtl.data.sources.csv import CsvSource
from recmtl.errors import DataError, unreadable
from recmtl.io.archives import ZIP_ERRORS, Member, members, on_disk

COUNTRIES = {country.lower(): country for country in ("NL", "ES", "FR", "US", "RU")}
USER_WORDS = dict.fromkeys(("user", "users", "usr", "usrs"), "user")
ITEM_WORDS = dict.fromkeys(("item", "items", "itm", "itms", "impression", "impressions"), "item")
SPLIT_WORDS = {"train": "train", "test": "test"}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # also in NamesLikeThis
MAX_NAMES = 12  # in an error


@contextmanager
def open_raw(location: str | Path, country: str) -> Iterator[dict[str, RawSource]]:
    """Open the raw files of a country as sources ``train`` and ``test`` in the processed layout.

    Files are recognized by the last matching word in their path, including folders and zips: ``user`` or ``usr``,
    ``item``, ``itm`` or ``impression``; ``train`` or ``test``; and the country. A file without a country in its path
    matches any country.

    Args:
        location: A folder or a zip; zips within are opened as well.
        country: NL, ES, FR, US or RU.

    Raises:
        DataError: The country, folder or zip does not exist, a zip is not safe, or one of the four files is missing or
            occurs twice.
    """
    path, code = on_disk(location), country.upper()
    if code not in COUNTRIES.values():
        raise DataError(f"`country` must be one of {', '.join(COUNTRIES.values())}, got {country!r}")
    with ExitStack() as stack:

        def fits(name: str) -> bool:
            return _last_word(f"{path.resolve().name}/{name}", COUNTRIES) in (code, None)

        found = list(members(path, fits, stack))
        files = {
            (side, split): _find_member(side, split, code, path, [m for m in found if fits(m.name)], found)
            for split in SPLIT_WORDS
            for side in ("user", "item")
        }
        yield {
            split: RawSource(
                _open_member(files["user", split], path, USER_COLUMNS),
                _open_member(files["item", split], path, ITEM_COLUMNS),
            )
            for split in SPLIT_WORDS
        }


def _open_member(member: Member, location: Path, columns: Sequence[str]) -> CsvSource:
    file = RawFile(str(location / member.name), member.open)
    try:
        return CsvSource(file, ",", columns)
    except (OSError, *ZIP_ERRORS) as error:
        raise unreadable(file.name, error) from error


@dataclass(frozen=True)
class RawFile:
    """A file of a folder or a zip that `CsvSource` can read.

    Args:
        name: The name in errors.
        stream: Opens the file.
    """

    name: str
    stream: Callable[[], pa.NativeFile]


def _find_member(
    side: str, split: str, country: str, location: Path, fitting: Sequence[Member], found: Sequence[Member]
) -> Member:
    matching = [
        m
        for m in fitting
        if (_last_word(m.name, USER_WORDS | ITEM_WORDS), _last_word(m.name, SPLIT_WORDS)) == (side, split)
    ]
    if len(matching) == 1:
        return matching[0]
    number = f"{len(matching)}: {_join_names(matching)}" if matching else f"none among {_join_names(found)}"
    raise DataError(f"expected one {side} file for {split} of {country} in {str(location)!r}, found {number}")


def _last_word(name: str, meanings: Mapping[str, str]) -> str | None:
    words = (word.lower() for word in reversed(WORD.findall(name)))
    return next((meanings[word] for word in words if word in meanings), None)


def _join_names(files: Sequence[Member]) -> str:
    names = ", ".join(repr(m.name) for m in files[:MAX_NAMES])
    return f"{names} and {len(files) - MAX_NAMES} more" if len(files) > MAX_NAMES else names or "no files"
