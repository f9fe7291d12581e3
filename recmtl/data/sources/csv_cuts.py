"""Where a CSV file can be cut: after records, found exactly, chunk by chunk in any order."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recmtl.io.byte_range import ByteRange

QUOTE, LINE_FEED = ord('"'), ord("\n")
FIELD_ENDS = b"\r\n"  # beside the separator
SEARCH_BYTES = 1 << 18  # of a block that a cache holds


class ChunkScan(NamedTuple):
    """What a chunk of a file says of it, if no quote is open before the chunk, and if one is.

    Args:
        open_after: Whether a quote is open behind it.
        cut: The first byte behind a line break outside of quotes; ``None`` if there is none.
    """

    open_after: tuple[bool, bool]
    cut: tuple[int | None, int | None]


def scan_chunk(chunk: ByteRange, separator: str) -> ChunkScan:
    """Scan a chunk, which may begin and end anywhere, for quotes and for a place to cut.

    A quote opens a value at its beginning alone. Within a quoted value a run of an even number of quotes stands for
    some, and one of an odd number ends it. So a run of an even number never changes whether a quote is open. One of an
    odd number at the beginning of a value changes it, and any other one leaves none open.
    """
    with chunk.reader() as read:
        text = b"" if _place(chunk, read, b'"') is None else read(chunk.start, chunk.end)
        line = _place(chunk, read, b"\n")
    starts, lengths = _quote_runs(chunk, text)
    odd = lengths % 2 == 1
    starts = starts[odd]
    if not len(starts):
        return ChunkScan((False, True), (None if line is None else line + 1, None))
    letters = np.frombuffer(text, np.uint8)
    if not chunk.start and text.startswith(codecs.BOM_UTF8):
        letters = np.append(np.full(3, LINE_FEED, np.uint8), letters[3:])  # a value begins behind it
    before = letters[starts - 1] if starts[0] else np.append(_letter_before(chunk), letters[starts[1:] - 1])
    opens = np.isin(before, np.frombuffer(FIELD_ENDS + separator.encode(), np.uint8))  # [runs], if none is open
    lines = np.flatnonzero(letters == LINE_FEED)
    found = [_scan(opens, starts, lines, is_open) for is_open in (False, True)]
    (first, cut), (second, other) = found
    return ChunkScan((first, second), (_placed(chunk, cut), _placed(chunk, other)))


def _place(chunk: ByteRange, read: Callable[[int, int], bytes], letter: bytes) -> int | None:
    """Return the first place of a letter in a chunk, given what reads its bytes; ``None`` if there is none."""
    for start in range(chunk.start, chunk.end, SEARCH_BYTES):
        found = read(start, min(start + SEARCH_BYTES, chunk.end)).find(letter)
        if found >= 0:
            return start + found
    return None


def _quote_runs(chunk: ByteRange, text: bytes) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the first place and the length of each run of quotes that begins in a chunk ``[runs]``, given its text."""
    if not text:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    places = np.flatnonzero(np.frombuffer(text, np.uint8) == QUOTE)
    first = np.append(True, np.diff(places) > 1)
    starts = places[first]
    lengths = np.diff(np.append(np.flatnonzero(first), len(places)))
    if starts[-1] + lengths[-1] == len(text):
        lengths[-1] += _quotes_behind(chunk)
    if starts[0] == 0 and chunk.start and _letter_before(chunk) == QUOTE:
        starts, lengths = starts[1:], lengths[1:]  # a run of the chunk before
    return starts, lengths


def _letter_before(chunk: ByteRange) -> int:
    """Return the byte before a chunk; that before the file is as good as a line break."""
    return chunk.around(chunk.start - 1, chunk.start)[0] if chunk.start else LINE_FEED


def _quotes_behind(chunk: ByteRange) -> int:
    """Return how many quotes follow a chunk immediately."""
    count = 0
    while text := chunk.around(chunk.end + count, chunk.end + count + 64):
        more = len(text) - len(text.lstrip(b'"'))
        count += more
        if more < len(text):
            break
    return count


def _scan(
    opens: npt.NDArray[np.bool_], starts: npt.NDArray[np.int64], lines: npt.NDArray[np.int64], is_open: bool
) -> tuple[bool, int | None]:
    """Return whether a quote is open after a chunk, and the first place after a line break outside of quotes."""
    changes = np.cumsum(opens)
    closed = np.maximum.accumulate(np.where(opens, -1, changes))  # changes before the last run that leaves none open
    after = np.where(closed < 0, changes + is_open, changes - closed) % 2 == 1  # [runs], whether one is open behind it
    state = np.append(is_open, after)[np.searchsorted(starts, lines)]
    free = lines[~state]
    return bool(after[-1]), int(free[0]) + 1 if len(free) else None


def _placed(chunk: ByteRange, cut: int | None) -> int | None:
    return None if cut is None else chunk.start + cut


def cuts_of(scans: Iterable[ChunkScan]) -> list[int]:
    """Return where to cut a file, given the scans of all its chunks: in each one at most once, never in the first."""
    is_open, cuts = False, list[int]()
    for number, scan in enumerate(scans):
        cut = scan.cut[is_open]
        if number and cut is not None:
            cuts.append(cut)
        is_open = scan.open_after[is_open]
    return cuts
