"""The interface of a reader of raw files: a dataset as its site hands it out, in the columns of its card."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from recmtl.data.sources.base import Source
from recmtl.data.sources.csv import CsvSource
from recmtl.errors import DataError, unreadable
from recmtl.io.archives import ZIP_ERRORS, Member
from recmtl.schema import SplitName
from recmtl.schema.text_format import PLAIN_TEXT, TextFormat

MAX_LISTED = 12  # files in an error
PACKED = re.compile(r"\.(gz|bz2|zst|lz4)$", re.IGNORECASE)

Sources = Mapping[SplitName, Source | Sequence[Source]]


@dataclass(frozen=True)
class RawFiles:
    """The files of a download: of a folder, a zip, or zips within zips.

    Args:
        place: The folder or zip.
        members: Its files.
        wanted: What they should be, for errors.
        stack: Closes what a reader opens.
    """

    place: Path
    members: Sequence[Member]
    wanted: str
    stack: ExitStack

    def matching(self, pattern: str) -> list[Member]:
        """Return the files whose names, without folders and compression, match a pattern; one of each name."""
        found = [m for m in self.members if re.fullmatch(pattern, plain_name(m), re.IGNORECASE)]
        plain = {m.name for m in found}
        return [m for m in found if not (PACKED.search(m.name) and PACKED.sub("", m.name) in plain)]

    def one(self, pattern: str, what: str) -> Member:
        """Return the file whose name matches a pattern.

        Raises:
            DataError: There is none, or there are several.
        """
        found = self.matching(pattern)
        if len(found) != 1:
            names = f"{len(found)}: {join_names(found)}" if found else f"none among {join_names(self.members)}"
            raise DataError(f"expected one {what} in {str(self.place)!r}, found {names}; {self.wanted}")
        return replace(found[0], name=str(self.place / found[0].name))

    def csv(self, pattern: str, what: str, text: TextFormat = PLAIN_TEXT, columns: Sequence[str] = ()) -> CsvSource:
        """Open the file whose name matches a pattern.

        Args:
            pattern: A regular expression.
            what: What the file is, for errors.
            text: Its separator, and its columns if it has no header.
            columns: Those that it must have.

        Raises:
            DataError: There is none, there are several, it is empty, or it lacks a column.
        """
        return open_csv(self.one(pattern, what), text, columns)


def open_csv(member: Member, text: TextFormat = PLAIN_TEXT, columns: Sequence[str] = ()) -> CsvSource:
    """Open a file as CSV, and check that it has the columns that its reader relies on."""
    try:
        source = CsvSource(member, text)
    except (OSError, pa.ArrowException, *ZIP_ERRORS) as error:
        raise unreadable(member.name, error) from error
    missing = [column for column in columns if column not in source.columns]
    if missing:
        raise DataError(
            f"{member.name} has no column {missing[0]!r}: expected {', '.join(columns)}, found "
            f"{', '.join(source.columns[:MAX_LISTED])}"
        )
    return source


def plain_name(member: Member) -> str:
    """Return the name of a file without its folders and without the suffix of a compression."""
    return PACKED.sub("", member.name.rpartition("/")[2])


def join_names(files: Sequence[Member]) -> str:
    """Return the names of files for an error."""
    names = ", ".join(repr(m.name) for m in files[:MAX_LISTED])
    return f"{names} and {len(files) - MAX_LISTED} more" if len(files) > MAX_LISTED else names or "no files"


class RawReader(ABC):
    """A dataset as its site hands it out.

    Attributes:
        name: The name of the layout.
        title: The name of the dataset.
        cards: The shipped cards that its columns are for.
        site: Where to get it.
        license: Its licence, as far as it could be confirmed.
        files: What the folder or zip must hold.
        parts: The parts of which one is read, if there are several.
        split: Which rows are for training and for the test.
        memory: What is held in memory beside the rows that are streamed.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    cards: ClassVar[tuple[str, ...]]
    site: ClassVar[str]
    license: ClassVar[str]
    files: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()
    split: ClassVar[str]
    memory: ClassVar[str] = "nothing: the rows are streamed"

    @abstractmethod
    def sources(self, files: RawFiles, part: str | None) -> Sources:
        """Return the rows of each split.

        Args:
            files: The files of the download.
            part: One of `parts`, or ``None`` if the dataset has none.

        Raises:
            DataError: A file is missing or cannot be read.
        """

    def opens(self, place: Path, part: str | None) -> Callable[[str], bool]:
        """Return which files may belong to a part, given their names: other zips are not opened."""
        return lambda name: True

    @property
    def advice(self) -> str:
        """Where to get the files, and how the folder must look."""
        return f"get {self.title} from {self.site} and give the folder or zip with {self.files}"
