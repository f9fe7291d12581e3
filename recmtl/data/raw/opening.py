"""Open raw files by the name of their layout or card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from recmtl.data.raw.aliccp import AliCcp
from recmtl.data.raw.aliexpress import AliExpress
from recmtl.data.raw.base import RawFiles, RawReader, Sources
from recmtl.data.raw.census_income import CensusIncome
from recmtl.data.raw.criteo_attribution import CriteoAttribution
from recmtl.data.raw.kuairand import KuaiRand
from recmtl.data.raw.kuairec import KuaiRec
from recmtl.data.raw.movielens import MovieLens
from recmtl.data.raw.tenrec import Tenrec
from recmtl.did_you_mean import did_you_mean
from recmtl.errors import DataError
from recmtl.io.archives import members, on_disk

ALL: Sequence[RawReader] = (
    AliExpress(),
    AliCcp(),
    KuaiRand(),
    KuaiRec(),
    Tenrec(),
    MovieLens(),
    CensusIncome(),
    CriteoAttribution(),
)
READERS = {reader.name: reader for reader in ALL}


def find_reader(name: str) -> RawReader:
    """Return the reader of a layout, given its name or that of one of its cards.

    Raises:
        DataError: There is none.
    """
    by_card = {card: reader for reader in ALL for card in reader.cards}
    named = by_card | READERS
    if name not in named:
        choices = f": expected one of {', '.join(READERS)}"
        raise DataError(f"there is no layout of raw files {name!r}{did_you_mean(name, named) or choices}")
    return named[name]


@contextmanager
def open_raw(layout: str, location: str | Path, part: str | None = None) -> Iterator[Sources]:
    """Open raw files as the rows of each split, in the columns of the layout's cards.

    Args:
        layout: The name of the layout, or of one of its cards: ``aliexpress``, ``kuairand``.
        location: A folder with the files, or a zip of them.
        part: Which part of them, for a layout that has several: a country, or a version.

    Raises:
        DataError: There is no such layout, part or folder, or a file is missing or cannot be read.
    """
    reader, place = find_reader(layout), on_disk(location)
    part = check_part(reader, part)
    if not place.exists():
        raise DataError(f"there is no folder or zip {str(place)!r}: {reader.advice}")
    with ExitStack() as stack:
        found = list(members(place, reader.opens(place, part), stack))
        yield reader.sources(RawFiles(place, found, reader.advice, stack), part)


def check_part(reader: RawReader, part: str | None) -> str | None:
    """Return the part as the reader spells it.

    Raises:
        DataError: It is none of the reader's, or it is missing.
    """
    spelled = {name.lower(): name for name in reader.parts}
    if part is None and not spelled:
        return None
    if part is None or part.lower() not in spelled:
        allowed = f"must be one of {', '.join(reader.parts)}" if spelled else "must be left out"
        raise DataError(f"`part` of {reader.name} {allowed}, got {part!r}")
    return spelled[part.lower()]
