import bz2
import gzip

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from recmtl.data import encode_rows, prepare
from recmtl.data.preparation.convert import convert
from recmtl.data.preparation.fit import Fitter
from recmtl.data.sources import csv as csv_source
from recmtl.data.sources import typed as sources
from recmtl.data.sources.open import open_sources
from recmtl.errors import BadValueError, DataError, counted
from recmtl.io.location import expand
from recmtl.schema import Categorical, Schema, Task
from recmtl.schema.text_format import TextFormat

COLUMNS, NUMBERS = ["c", "n"], frozenset({"n"})
FRAME = pd.DataFrame({"c": ["a", "b,\nc", None, "Ü"], "n": [1.5, None, -2.0, 0.0], "z": [1, 2, 3, 4]})
ROWS = [{"c": "a", "n": 1.5}, {"c": "b,\nc", "n": None}, {"c": None, "n": -2.0}, {"c": "Ü", "n": 0.0}]
CSV = FRAME.to_csv(index=False).encode()


def read(data, columns=COLUMNS, numbers=NUMBERS):
    batches = [batch for source in open_sources(data) for batch in source.batches(columns, numbers)]
    return [row for batch in batches for row in batch.to_pylist()]


def write(path, content):
    if content is None:
        content = CSV
    with pa.output_stream(str(path), compression="detect") as stream:
        stream.write(content)
    return path


def error(data):
    """Return the one-line error of reading and fitting the rows."""
    schema = Schema([Categorical("c")], [Task("t", "n", kind="regression")])
    with pytest.raises(DataError) as caught:
        list(convert(schema, open_sources(data), lambda batch, rows: Fitter(schema).add(batch)))
    message = str(caught.value)
    assert "\n" not in message
    return message


class TestFormats:
    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst", "a.csv.bz2", "a.txt", "a", "a.b.csv", "a.gz"])
    def test_csv(self, tmp_path, name):
        assert read(write(tmp_path / name, None)) == ROWS

    def test_compressed_by_other_tools(self, tmp_path):
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV[:20]) + gzip.compress(CSV[20:]))  # as bgzip does
        (tmp_path / "a.csv.bz2").write_bytes(bz2.compress(CSV))
        assert read(tmp_path / "a.csv.gz") == read(tmp_path / "a.csv.bz2") == ROWS

    @pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
    def test_tsv(self, tmp_path, name):
        assert read(write(tmp_path / name, FRAME.to_csv(index=False, sep="\t").encode())) == ROWS

    @pytest.mark.parametrize("name", ["a.parquet", "a.pq", "a.arrow", "a.feather"])
    def test_binary(self, tmp_path, name):
        table = pa.Table.from_pandas(FRAME)
        (pq.write_table if ".p" in name else pa.feather.write_feather)(table, str(tmp_path / name))
        assert read(tmp_path / name) == ROWS

    def test_memory(self):
        assert read(FRAME) == ROWS
        assert read(pa.Table.from_pandas(FRAME)) == ROWS
        assert read(FRAME.set_index("z")) == ROWS

    def test_columns_are_in_the_requested_order(self, tmp_path):
        FRAME.to_parquet(tmp_path / "a.parquet")
        pa.feather.write_feather(FRAME, str(tmp_path / "a.arrow"))
        for data in (FRAME, write(tmp_path / "a.csv", None), tmp_path / "a.parquet", tmp_path / "a.arrow"):
            (source,) = open_sources(data)
            assert next(source.batches(["z", "c"], frozenset())).schema.names == ["z", "c"]
            assert source.columns == ("c", "n", "z")

    def test_streams_in_batches(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sources, "FRAME_ROWS", 3)
        monkeypatch.setattr(csv_source, "PART_BYTES", 24)
        FRAME.to_parquet(tmp_path / "a.parquet")
        for data in (FRAME, write(tmp_path / "a.csv", None), tmp_path / "a.parquet"):
            (source,) = open_sources(data)
            assert len(list(source.batches(COLUMNS, NUMBERS))) > 1
            assert read(data) == ROWS
            assert read(data) == ROWS  # any number of times


class TestCsv:
    def test_numbers_and_text(self, tmp_path):
        path = write(tmp_path / "a.csv", b"c,n\n007,007\nNA,1e3\n")
        assert read(path) == [{"c": "007", "n": 7.0}, {"c": None, "n": 1000.0}]

    @pytest.mark.parametrize("null", ["", '""', "nan", "NaN", "null", "NULL"])
    def test_missing(self, tmp_path, null):
        assert read(write(tmp_path / "a.csv", f"c,n\n{null},{null}\n".encode())) == [{"c": None, "n": None}]

    @pytest.mark.parametrize(
        "content",
        [
            b"\xef\xbb\xbfc,n\na,1\nb,2\n",
            b"c,n\r\na,1\r\nb,2\r\n",
            b"c,n\ra,1\rb,2",
            b"c,n\na,1\n\n\nb,2\n\n",
            b"\n\r\nc,n\na,1\nb,2",
            b'"c","n"\n"a","1"\n"b","2"\n',
            b'\xef\xbb\xbf"c",n\r\n\r\na, 1\r\nb,2 \r\n',
        ],
    )
    def test_dialects(self, tmp_path, content):
        assert read(write(tmp_path / "a.csv", content)) == [{"c": "a", "n": 1.0}, {"c": "b", "n": 2.0}]

    def test_quotes(self, tmp_path):
        path = write(tmp_path / "a.csv", b'c,n\n"a,""b""\r\n\n c",1\n5" pipe,2\n')
        assert [row["c"] for row in read(path)] == ['a,"b"\r\n\n c', '5" pipe']

    @pytest.mark.parametrize(
        ("header", "separator"),
        [
            ("c,n", ","),
            ("c\tn", "\t"),
            ("c;n", ";"),
            ("c|n", "|"),
            ('"a,b,d";c;n', ";"),
            ('"a ""b"" ;;;\n;;;"|c|n', "|"),
            ("\ufeff\r\n\r\nc;n", ";"),
            ("a,b;c;d,n", ","),
        ],
    )
    @pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.zst"])
    def test_separator(self, tmp_path, header, separator, name):
        content = header + "\nx" + separator.join(["x"] * (header.rpartition('"')[2].count(separator) + 1))
        (source,) = open_sources(write(tmp_path / name, content.encode()))
        assert len(source.columns) == content.rpartition("\n")[2].count(separator) + 1
        assert next(iter(source.batches(source.columns, frozenset()))).num_rows == 1

    def test_given_separator(self, tmp_path):
        path = write(tmp_path / "a.csv", b"c,c,c\x01n\n1,2\x015\n")
        (source,) = open_sources(path, text=TextFormat("\x01"))
        assert source.columns == ("c,c,c", "n")
        schema = Schema.infer(path, [Task("t", "n", kind="regression")], separator="\x01")
        assert schema.features == (Categorical("c,c,c", min_count=2),)
        assert prepare(schema, path, holdout=0).train.labels["n"].tolist() == [5]
        assert encode_once(prepare(schema, path, holdout=0).schema, path) == 1


def encode_once(fitted, path):
    return sum(len(rows) for rows in encode_rows(fitted, path))


LINES = [  # what stands before the bad record, and the line where the record begins
    (b"", 2),
    (b"a,1\n", 3),
    (b"\n\na,1\n\n", 6),
    (b'"a\nb\n\nc",1\n', 6),
    (b'"a\r\nb",1\r\n\r\n', 5),
    (b"a,1\n" * 20, 22),
]


CLASSES = "; if these are names of classes, say `kind: multiclass`, or `--kind n=multiclass`"


class TestFaults:
    @pytest.mark.parametrize("block", [1 << 22, 32])
    @pytest.mark.parametrize(("before", "line"), LINES)
    def test_bad_number(self, tmp_path, monkeypatch, before, line, block):
        monkeypatch.setattr(csv_source, "PART_BYTES", block)
        path = write(tmp_path / "a.csv", b"c,n\n" + before + b"b,x1\nc,x2\n")
        assert error(path) == f"{path}, line {line}, column 'n': 'x1' is not a number{CLASSES}"

    def test_bad_number_in_a_record_of_several_lines(self, tmp_path):
        path = write(tmp_path / "a.csv", b'c,n\na,1\n"b\nc",x\n')
        assert error(path) == f"{path}, line 3, column 'n': 'x' is not a number{CLASSES}"

    @pytest.mark.parametrize(("before", "line"), LINES)
    @pytest.mark.parametrize(("record", "count"), [(b"b", 1), (b"b,2,3", 3), (b"b,2,", 3)])
    def test_wrong_number_of_columns(self, tmp_path, before, line, record, count):
        path = write(tmp_path / "a.csv", b"c,n\n" + before + record + b"\nc,3\n")
        assert error(path) == f"{path}, line {line}: {counted(count, 'column')}, expected 2"

    def test_unclosed_quote(self, tmp_path):
        path = write(tmp_path / "a.csv", b'c,n\na,1\n"b,2\nc,3\n')
        assert error(path) == f"{path}, line 3: a quote is opened in this row and never closed"

    @pytest.mark.parametrize("end", ["", "\n", "\r\n"])
    @pytest.mark.parametrize("text", ['c,n,z\na,1,"x\nb,2,y\nc,3,y', 'n,c\n1,a\n2,"b\n3,c'])
    def test_unclosed_quote_that_swallows_the_last_rows(self, tmp_path, text, end):
        """The number of columns is right, so only the end of the file shows it."""
        path = write(tmp_path / "a.csv", (text + end).encode())
        line = 2 if "z" in text else 3
        assert error(path) == f"{path}, line {line}: a quote is opened in this row and never closed"
        assert len(read(write(tmp_path / "b.csv", (text + end + '"').encode()))) == line - 1

    @pytest.mark.parametrize(("before", "line"), LINES)
    def test_invalid_utf8(self, tmp_path, before, line):
        path = write(tmp_path / "a.csv", b"c,n\n" + before + b"Gr\xf6\xdfe,1\n")
        assert error(path) == f"{path}, line {line}, column 'c': 'Gr\ufffd\ufffde' is not text in UTF-8"

    def test_place(self, tmp_path):
        path = write(tmp_path / "a.csv.gz", b'\xef\xbb\xbfc,n\n"a\nb",1\n\nb,2\n')
        (source,) = open_sources(path)
        assert [source.place(row) for row in (0, 1)] == [f"{path}, line 2", f"{path}, line 5"]
        fault = source.fault(BadValueError(1, "n", "x", "a number"))
        assert str(fault) == f"{path}, line 5, column 'n': 'x' is not a number"

    def test_place_in_memory(self):
        (source,) = open_sources(FRAME, "train")
        assert source.place(2) == "the train frame, row 3"

    @pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\n", b"\xef\xbb\xbf"])
    def test_empty(self, tmp_path, content):
        path = write(tmp_path / "a.csv", content)
        assert error(path) == f"{path} is empty: expected a header and rows"

    @pytest.mark.parametrize("content", [b"c,n", b"c,n\n", b"c,n\r\n\r\n", b"\xef\xbb\xbfc,n\n"])
    def test_only_a_header(self, tmp_path, content):
        assert read(write(tmp_path / "a.csv", content)) == []

    @pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.arrow"])
    def test_column_twice(self, tmp_path, name):
        table = pa.table([[1], [2], [3]], names=["c", "n", "c"])
        path = tmp_path / name
        if name == "a.csv":
            write(path, b"c,n,c\n1,2,3\n")
        else:
            (pq.write_table if ".p" in name else pa.feather.write_feather)(table, str(path))
        assert "twice" in error(path) or "unique" in error(path) or "uplicate" in error(path)
        assert str(path) in error(path)
        assert "'c' twice" in error(table)

    @pytest.mark.parametrize(
        "content",
        [bytes(range(256)) * 20, b"\x89PNG\r\n\x1a\n\0\0"],
        ids=["every byte", "an image"],
    )
    def test_binary_content(self, tmp_path, content):
        path = tmp_path / "a.csv"
        path.write_bytes(content)
        assert error(path) == f"{path} is not a CSV file: expected a header in UTF-8 text"

    @pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv.gz", "a.csv.zst", "a.csv.bz2"])
    def test_content_that_contradicts_the_suffix(self, tmp_path, name):
        path = tmp_path / name
        path.write_bytes(CSV)
        assert error(path).startswith(f"{path} cannot be read: ")

    @pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.zst", "a.csv.bz2", "a.parquet", "a.arrow"])
    @pytest.mark.parametrize("share", [0.3, 0.9])
    def test_truncated(self, tmp_path, name, share):
        long = pd.DataFrame({"c": [f"{i * 7919}" for i in range(3000)], "n": range(3000)})
        path = tmp_path / name
        if ".csv" in name:
            write(path, long.to_csv(index=False).encode())
        elif name == "a.parquet":
            long.to_parquet(path)
        else:
            pa.feather.write_feather(long, str(path))
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * share)])
        assert error(path).startswith(f"{path} cannot be read: ")

    def test_frame_of_mixed_types(self):
        """Numbers among text are text, as in a file; lists among them are refused."""
        frame = pd.DataFrame({"c": [1, "a", None, 2.5, True], "n": range(5), "text": list("abcde")})
        assert [row["c"] for row in read(frame)] == ["1", "a", None, "2.5", "True"]
        message = error(pd.DataFrame({"c": [1, ["a"]], "n": [0, 0]}))
        assert message.startswith("the data frame cannot be read: ")
        assert "column c" in message


def names(place):
    return [location.name for location in expand(place)]


class TestExpand:
    def test_file_folder_glob(self, tmp_path):
        for name in ("b.csv", "a.csv", "_SUCCESS", ".hidden", "c.txt"):
            (tmp_path / name).write_text("x")
        (tmp_path / "sub.csv").mkdir()
        assert names(tmp_path / "a.csv") == [f"{tmp_path}/a.csv"]
        assert names(str(tmp_path)) == [f"{tmp_path}/{name}" for name in ("a.csv", "b.csv", "c.txt")]
        assert names(f"{tmp_path}/*.csv") == [f"{tmp_path}/a.csv", f"{tmp_path}/b.csv"]
        (tmp_path / "sub.csv" / "d.csv").write_text("x")
        assert names(f"{tmp_path}/**/?.csv") == [f"{tmp_path}/{name}" for name in ("a.csv", "b.csv", "sub.csv/d.csv")]
        assert names(f"{tmp_path}/*/[!a].csv") == [f"{tmp_path}/sub.csv/d.csv"]
        assert names(f"{tmp_path}/_*") == [f"{tmp_path}/_SUCCESS"]

    def test_relative(self, tmp_path, monkeypatch):
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "a.csv").write_text("x")
        monkeypatch.chdir(tmp_path)
        assert names("*/*.csv") == names("d") == names("./d/a.csv") == names("**/*.csv") == ["d/a.csv"]
        assert names(f"file://{tmp_path}/d/*.csv") == [f"file://{tmp_path}/d/a.csv"]

    def test_existing_name_with_wildcards(self, tmp_path):
        (tmp_path / "a[1].csv").write_text("x")
        assert names(tmp_path / "a[1].csv") == [f"{tmp_path}/a[1].csv"]

    def test_missing_files(self, tmp_path):
        for location in (tmp_path / "gone.csv", f"{tmp_path}/*.csv"):
            with pytest.raises(DataError, match="there is no file"):
                expand(location)
        with pytest.raises(DataError, match="holds no files"):
            expand(tmp_path)
        with pytest.raises(DataError, match="the list of train files is empty"):
            open_sources([], "train")

    def test_list(self, tmp_path):
        paths = [write(tmp_path / f"{name}.csv", None) for name in "ba"]
        assert [s.name for s in open_sources([paths[0], str(paths[1])])] == [str(p) for p in paths]
        assert read(paths) == ROWS + ROWS


class TestParts:
    """A file is split after line breaks, or parsed sequentially if that is impossible."""

    @pytest.fixture(autouse=True)
    def short(self, monkeypatch):
        monkeypatch.setattr(csv_source, "PART_BYTES", 128)
        monkeypatch.setattr(csv_source, "BLOCK_BYTES", 32)

    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["lf", "crlf", "cr"])
    @pytest.mark.parametrize("last", ["", "end"])
    @pytest.mark.parametrize("blank", [0, 1, 50])
    @pytest.mark.parametrize("long", ["x", "x" * 100], ids=["short", "long"])
    @pytest.mark.parametrize("odd", ["y", '"y"', '"a,b"'], ids=["plain", "quoted", "separator"])
    def test_equal_pandas(self, tmp_path, end, last, blank, long, odd):
        lines = ["c,n", "a,1", *[""] * blank, f"{long},2", *(f"v{i},{i}" for i in range(30)), f"{odd},3", "z,4"]
        (tmp_path / "a.csv").write_bytes((end.join(lines) + (end if last else "")).encode())
        expected = pd.read_csv(tmp_path / "a.csv").to_dict("records")
        assert read(tmp_path / "a.csv") == expected

    def test_lines_within_values_are_counted(self, tmp_path, monkeypatch):
        """Two stray quotes make one value of many lines, which may be intended."""
        monkeypatch.setattr(csv_source, "PART_BYTES", 500)
        rows = [f"v{i},{i % 2}" for i in range(100)]
        rows[20], rows[60] = '"' + rows[20], '"' + rows[60]
        file = write(tmp_path / "a.csv", "\n".join(["c,n", "", *rows, "", ""]).encode())
        data = prepare(Schema([Categorical("c")], [Task("t", "n")]), file, holdout=0, bad_rows="skip")
        left = [note for note in data.notes if "quoted" in note]
        assert left == [f"40 lines of {file} are within quoted values"]

    def test_quoted_values_of_one_line_are_not_counted(self, tmp_path):
        file = write(tmp_path / "a.csv", b'c,n\r\n\r\n"a,b",1\r\n"c",0\r\n\r\nd,1')
        data = prepare(Schema([Categorical("c")], [Task("t", "n")]), file, holdout=0)
        assert not [note for note in data.notes if "quoted" in note]


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_replacement_character_is_text(tmp_path, policy):
    file = write(tmp_path / "a.csv", "c,n\n\ufffd,1\nb,0\n".encode())
    data = prepare(Schema([Categorical("c")], [Task("t", "n")]), file, holdout=0, bad_rows=policy)
    assert data.schema.vocabularies["c"].to_pylist() == ["b", "\ufffd"]
