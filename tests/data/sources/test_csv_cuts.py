"""Pieces of CSV files have the rows, the lines and the errors of the whole file, wherever it is cut."""

import csv
import io
import itertools
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl.data.preparation.convert import convert
from recmtl.data.sources import csv as csv_source
from recmtl.data.sources.base import Source, joined_notes
from recmtl.data.sources.csv_cuts import cuts_of, scan_chunk
from recmtl.data.sources.open import open_sources
from recmtl.errors import DataError
from recmtl.io.byte_range import ByteRange
from recmtl.io.location import Location
from recmtl.schema import Categorical, Schema, Task

LETTERS = st.text('a",\n\r', max_size=60)
VALUES = st.text('ab",\n', max_size=5)


def cuts(path: Path, size: int) -> list[int]:
    whole = Location.of(path)
    chunks = [ByteRange(whole, start, min(start + size, whole.size)) for start in range(0, whole.size, size)]
    return cuts_of(map(partial(scan_chunk, separator=","), chunks))


def open_quote(text: str) -> bool:
    """A naive twin: whether a quote is open behind a text, letter by letter as `csv` reads it."""
    state = "start"
    for letter in text:
        if state in ("quoted", "quote") and letter == '"':
            state = "quote" if state == "quoted" else "quoted"
        elif state == "quoted":
            pass
        elif letter in ",\r\n":
            state = "start"
        else:
            state = "quoted" if letter == '"' and state == "start" else "value"
    return state == "quoted"


@given(LETTERS, st.integers(1, 9))
def test_cuts_stand_behind_the_first_line_break_outside_of_quotes_of_each_chunk(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut.csv"
    path.write_bytes(text.encode())
    expected = []
    for start in range(size, len(text), size):
        ends = (
            i + 1 for i in range(start, min(start + size, len(text))) if text[i] == "\n" and not open_quote(text[:i])
        )
        expected += itertools.islice(ends, 1)
    assert cuts(path, size) == expected


def rows_of(sources: list[Source]) -> list[tuple[object, ...]]:
    found = []
    for source in sources:
        for batch in source.batches(["a", "b"], frozenset()):
            texts = [column.cast(pa.string()).fill_null("").to_pylist() for column in batch.columns]
            found += zip(*texts, strict=True)
    return found


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=12), st.integers(5, 40), st.booleans())
def test_pieces_have_the_rows_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], size: int, all_quoted: bool
) -> None:
    path, text = tmp_path_factory.getbasetemp() / "rows.csv", io.StringIO()
    kept = [("x" + a, "y" + b) for a, b in rows]
    csv.writer(text, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL).writerows([("a", "b"), *kept])
    path.write_text(text.getvalue(), newline="")
    (whole,) = open_sources(path)
    assert rows_of([*whole.cut(size)]) == kept == rows_of([whole])


def write(path: Path, lines: list[str]) -> Source:
    path.write_text("c,y\n" + "\n".join(lines) + "\n")
    (source,) = open_sources(path)
    return source


SCHEMA = Schema([Categorical("c")], [Task("t", "y")])
LINES = [f"v{i},{i % 2}" for i in range(40)]


@pytest.mark.parametrize(
    ("place", "line", "error"),
    [
        (30, "v,7", "line 33, column 'y': '7'"),
        (30, "v,x", "line 33, column 'y': 'x'"),
        (30, "v", "line 33: 1 column, expected 2"),
        (30, '"v,1', "line 33: a quote is opened in this row and never closed"),
    ],
)
def test_errors_name_the_line_of_the_file(tmp_path: Path, place: int, line: str, error: str) -> None:
    """A value of two lines stands before it."""
    source = write(tmp_path / "a.csv", [*LINES[:5], '"a\nb",1', *LINES[6:place], line, *LINES[place + 1 :]])
    found = []
    for pieces in ([source], [*source.cut(50)]):
        with pytest.raises(DataError) as raised:
            list(convert(SCHEMA, pieces, partial(_labels)))
        found.append(str(raised.value))
    assert len(source.cut(50)) > 3
    assert error in found[0]
    assert found[1] == found[0]


def _labels(batch: pa.RecordBatch, rows: object) -> None:
    from recmtl.data.preparation.convert import label_column

    label_column(SCHEMA, batch, "y")


def test_notes_of_pieces_add_up(tmp_path: Path) -> None:
    source = write(tmp_path / "a.csv", [*LINES[:5], '"a\nb",1', *LINES[6:20], '"a\n\nb\nc",1', *LINES[21:]])
    pieces = source.cut(50)
    for each in (source, *pieces):
        list(each.batches(["c"], frozenset()))
    expected = [f"3 lines of {tmp_path / 'a.csv'} are within quoted values"]
    assert joined_notes(source.notes) == joined_notes(note for piece in pieces for note in piece.notes) == expected


def test_lines_before_a_piece_are_counted_for_errors_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a file of n pieces would be read n / 2 times."""
    source = write(tmp_path / "a.csv", LINES)
    monkeypatch.setattr(ByteRange, "lines_before", None)
    batches = [batch for piece in source.cut(50) for batch in piece.batches(["c"], frozenset())]
    assert sum(batch.num_rows for batch in batches) == len(LINES)


@given(st.text("ab,\n", max_size=40), st.text("ab,\n", max_size=9), st.booleans(), st.integers(1, 12))
def test_a_piece_is_split_as_a_file_is(text: str, before: str, quoted: bool, size: int) -> None:
    def split(parts: Iterator[memoryview]) -> list[bytes] | None:
        try:
            return [bytes(part) for part in parts]
        except csv_source._QuoteError:
            return None

    whole = (text + '"' * quoted).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(before.encode() + whole + b"behind")
        piece = ByteRange(Location.of(path), len(before), len(before) + len(whole))
        found = split(csv_source._split_range(piece, size))
    assert found == split(csv_source._split_at_lines(pa.BufferReader(whole), size))
    assert found is None or b"".join(found) == whole
    assert found is None or not quoted
