"""Find the files of the raw layout of AliExpress in what its site hands out: a folder, a zip, or zips within."""

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
from recmtl.io.archives import FAULTS, Member, members, on_disk

COUNTRIES = {country.lower(): country for country in ("NL", "ES", "FR", "US", "RU")}
USER = dict.fromkeys(("user", "users", "usr", "usrs"), "user")
ITEM = dict.fromkeys(("item", "items", "itm", "itms", "impression", "impressions"), "item")
SPLITS = {"train": "train", "test": "test"}
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")  # also of NamesLikeThis
SHOWN = 12  # names in an error


@contextmanager
def open_raw(location: str | Path, country: str) -> Iterator[dict[str, RawSource]]:
    """Open the raw files of a country: sources ``train`` and ``test`` in the processed layout.

    A file is told by the words of its name and of the folders and zips that hold it, the last of a kind deciding:
    ``user`` or ``usr``, ``item``, ``itm`` or ``impression``; ``train`` or ``test``; and the country. A file whose name
    has no country is taken for any.

    Args:
        location: A folder or a zip; zips within are opened, too.
        country: NL, ES, FR, US or RU.

    Raises:
        DataError: There is no such country, folder or zip, a zip cannot be trusted, or one of the four files is missing
            or there twice.
    """
    path, code = on_disk(location), country.upper()
    if code not in COUNTRIES.values():
        raise DataError(f"`country` must be one of {', '.join(COUNTRIES.values())}, got {country!r}")
    with ExitStack() as stack:

        def fits(name: str) -> bool:
            return _last(f"{path.resolve().name}/{name}", COUNTRIES) in (code, None)

        found = list(members(path, fits, stack))
        files = {
            (side, split): _only(side, split, code, path, [m for m in found if fits(m.name)], found)
            for split in SPLITS
            for side in ("user", "item")
        }
        yield {
            split: RawSource(
                _opened(files["user", split], path, USER_COLUMNS), _opened(files["item", split], path, ITEM_COLUMNS)
            )
            for split in SPLITS
        }


def _opened(member: Member, location: Path, columns: Sequence[str]) -> CsvSource:
    file = RawFile(str(location / member.name), member.open)
    try:
        return CsvSource(file, ",", columns)
    except (OSError, *FAULTS) as error:
        raise unreadable(file.name, error) from error


@dataclass(frozen=True)
class RawFile:
    """A file of a folder or a zip, as `CsvSource` reads it.

    Args:
        name: What to call it in an error.
        stream: Opens it.
    """

    name: str
    stream: Callable[[], pa.NativeFile]


def _only(
    side: str, split: str, country: str, location: Path, fitting: Sequence[Member], found: Sequence[Member]
) -> Member:
    matching = [m for m in fitting if (_last(m.name, USER | ITEM), _last(m.name, SPLITS)) == (side, split)]
    if len(matching) == 1:
        return matching[0]
    number = f"{len(matching)}: {_listed(matching)}" if matching else f"none among {_listed(found)}"
    raise DataError(f"expected one {side} file for {split} of {country} in {str(location)!r}, found {number}")


def _last(name: str, meanings: Mapping[str, str]) -> str | None:
    words = (word.lower() for word in reversed(WORD.findall(name)))
    return next((meanings[word] for word in words if word in meanings), None)


def _listed(files: Sequence[Member]) -> str:
    names = ", ".join(repr(m.name) for m in files[:SHOWN])
    return f"{names} and {len(files) - SHOWN} more" if len(files) > SHOWN else names or "no files"
