"""Any bytes: a CSV file is read, or a one-line error names it; no row is lost without being counted."""

import csv
import io
import tempfile
import warnings
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from recmtl.data import DataError, prepare
from recmtl.data.sources import csv as csv_source
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, SchemaError, Task

SCHEMA = Schema([Categorical("c"), MultiCategorical("m"), Numeric("x")], [Task("t", "y")], keys=["k"])
HEADER = b"k,c,m,x,y"
CELLS = [
    "",
    "0",
    "1",
    "2",
    "-1",
    "1e3",
    "nan",
    "inf",
    "a",
    "a|b",
    "a b",
    '"a,b"',
    '"a\nb"',
    '"a""b"',
    "1" * 20,
    "Ü",
    'a"',
]
PIECES = [b",", b"\n", b"\r\n", b"\r", b'"', b'""', b"\xff", b"\0", b";", b"\t", b"|", b" ", b"1", b"\xef\xbb\xbf", b""]

rows = st.lists(st.sampled_from(CELLS), min_size=4, max_size=6).map(",".join)
lines = st.lists(rows, max_size=12).map("\n".join).map(str.encode)
valid = st.tuples(lines, st.sampled_from([b"", b"\n", b"\r\n", b"\n\n"])).map(
    lambda parts: b"\n".join((HEADER, *parts))
)
edits = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), st.sampled_from(PIECES)), max_size=4)
budget = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def edited(content, changes):
    for start, length, piece in changes:
        content = content[:start] + piece + content[start + length :]
    return content


def attempt(content, bad_rows, block=1 << 22):
    """Return the numbers of rows read and skipped, `None` if the file is invalid."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        path = Path(folder) / "a.csv"
        path.write_bytes(content)
        try:
            data = prepare(SCHEMA, path, holdout=0, bad_rows=bad_rows)
        except (DataError, SchemaError) as error:
            said = str(error)
            assert (str(path) in said, len(said.splitlines())) == (True, 1), said
            return None
    said = [note for note in data.notes if " left out" in note]
    return len(data.train), int(said[0].split()[0].replace(",", "")) if said else 0


def count(content):
    """Return the rows below the header, read by another parser."""
    text = content.decode("utf-8-sig", errors="replace")
    return sum(1 for record in csv.reader(io.StringIO(text, newline="")) if record) - 1


def check(content):
    strict, lenient = attempt(content, "error"), attempt(content, "skip")
    if strict is not None:
        assert strict == (count(content), 0)
        assert lenient == strict
    if lenient is not None:
        assert sum(lenient) == count(content)


@budget
@given(valid, edits)
@example(HEADER + b'\n1,a,b,1,1\n1,"a,b,1,1\n1,a,b,1,1\n', [])
@example(HEADER + b'\n1,a,b,1,"1\n1,a,b,1,1\n', [])
@example(HEADER + b"\n1,a,b,1,1\n2\n3,a,b,x,1\n", [])
def test_edits_of_a_table(content, changes):
    check(edited(content, changes))


@budget
@given(st.lists(st.sampled_from([*PIECES, *map(str.encode, CELLS)]), max_size=40).map(b"".join))
def test_pieces_below_a_header(content):
    check(HEADER + b"\n" + content)


@budget
@given(st.binary(max_size=200))
def test_any_bytes(content):
    check(content)


@budget
@given(valid, edits, st.integers(30, 80))
def test_small_blocks(content, changes, size):
    """A record larger than a block may be an error, but no row is lost."""
    previous = csv_source.PART_BYTES
    csv_source.PART_BYTES = size
    try:
        check(edited(content, changes))
    finally:
        csv_source.PART_BYTES = previous
