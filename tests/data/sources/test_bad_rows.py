"""Bad rows: the first is an error, or all are skipped and counted."""

import time
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recmtl.data import DataError, PreparedData, encode_rows, prepare
from recmtl.data.preparation.prepare_cached import prepare_cached
from recmtl.data.sources import csv as csv_source
from recmtl.data.sources.bad_rows import BadRowCounter
from recmtl.data.sources.typed import TableSource
from recmtl.errors import BadValueError
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, Task, Timestamp, sample

SCHEMA = Schema(
    [Categorical("c"), MultiCategorical("m"), Numeric("x")], [Task("t", "y")], group="g", keys=["k"], weight="w"
)
HEADER = "g,k,c,m,x,y,w\n"
GOOD = [f"{i % 7},{i},v{i % 3},a|b,{i / 4},{i % 2},1\n" for i in range(40)]
BAD = {  # a bad row and its error
    "1,0,v0,a,many,0,1\n": "column 'x': 'many' is not a number",
    "1,0,v0,a,inf,0,1\n": "column 'x': inf is not a finite number",
    "1,0,v0,a,1e999,0,1\n": "column 'x': inf is not a finite number",
    "1,0,v0,a,1,2,1\n": "column 'y': '2' is not a binary label: expected a number from 0 to 1, or nothing",
    "1,0,v0,a,1,yes,1\n": "column 'y': 'yes' is not a binary label: expected 0 or 1; if these are names of classes, "
    "say `kind: multiclass`, or `--kind y=multiclass`",
    "1,0,v0,a,1,0,-1\n": "column 'w': -1.0 is not a weight: expected a number from 0",
    "1,0,v0,a,1,0,\n": "column 'w': None is not a weight: expected a number from 0",
    "1,0,v\udcff,a,1,0,1\n": "column 'c': 'v\ufffd' is not text in UTF-8",
    "1,0,v0,\udcff|b,1,0,1\n": "column 'm': '\ufffd|b' is not text in UTF-8",
    "1,0,v0,a,1,0\n": "6 columns, expected 7",
    "1,0,v0,a,1,0,1,\n": "8 columns, expected 7",
}
SKIPPED = {  # where the value is shown as it is written
    "1,0,v0,a,inf,0,1\n": "column 'x': 'inf' is not a finite number",
    "1,0,v0,a,1e999,0,1\n": "column 'x': '1e999' is not a finite number",
    "1,0,v0,a,1,0,-1\n": "column 'w': '-1' is not a weight: expected a number from 0",
}


def write(path, lines, header=HEADER):
    path.write_bytes("".join([header, *lines]).encode(errors="surrogateescape"))
    return path


def content(data):
    rows = {name: (split.packed().tolist(), split.keys.to_pydict()) for name, split in data.splits.items()}
    return data.schema.fingerprint, rows


def place(path, line, reason):
    return f"{path}, line {line}{':' if 'expected 7' in reason else ','} {reason}"


class TestOneBadRow:
    @pytest.mark.parametrize(("block", "holdout"), [(1 << 22, 0), (64, 0.3)])
    @pytest.mark.parametrize("row", list(BAD), ids=[ascii(row.strip()) for row in BAD])
    def test_error_or_skipped(self, tmp_path, monkeypatch, row, block, holdout):
        monkeypatch.setattr(csv_source, "PART_BYTES", block)
        path = write(tmp_path / "a.csv", [*GOOD[:20], row, *GOOD[20:]])
        with pytest.raises(DataError) as caught:
            prepare(SCHEMA, path, holdout=holdout)
        assert str(caught.value).partition(": at least 1 row has an infinite one; ")[0] == place(path, 22, BAD[row])
        data = prepare(SCHEMA, path, holdout=holdout, bad_rows="skip")
        assert data.notes[-2:] == ("1 bad row was left out", f"left out: {place(path, 22, SKIPPED.get(row, BAD[row]))}")
        good = prepare(SCHEMA, write(tmp_path / "b.csv", GOOD), holdout=holdout, bad_rows="skip")
        assert content(data) == content(good)

    def test_good_file_is_read_alike(self, tmp_path):
        path = write(tmp_path / "a.csv", GOOD)
        data, other = prepare(SCHEMA, path, bad_rows="skip"), prepare(SCHEMA, path)
        assert content(data) == content(other)
        assert data.notes == other.notes

    def test_invalid_column_is_always_an_error(self):
        frame = pd.DataFrame({"c": [["a"], ["b"]], "y": [0, 1]})
        with pytest.raises(DataError, match="is not one category"):
            prepare(Schema([Categorical("c")], [Task("t", "y")]), frame, holdout=0, bad_rows="skip")

    def test_unclosed_quote_is_always_an_error(self, tmp_path):
        for row in ('1,0,"v0,a,1,0,1\n', '1,0,v0,a,1,0,"1\n', '1,0,v0,a,"x\n'):
            path = write(tmp_path / "a.csv", [*GOOD[:20], row, *GOOD[20:]])
            for bad_rows in ("error", "skip"):
                with pytest.raises(DataError, match="line 22: a quote is opened in this row and never closed"):
                    prepare(SCHEMA, path, bad_rows=bad_rows)

    def test_invalid_option(self):
        with pytest.raises(DataError, match="`bad_rows` must be 'error' or 'skip', got 'drop'"):
            prepare(SCHEMA, "a.csv", bad_rows="drop")


class TestMany:
    @pytest.mark.parametrize("block", [1 << 22, 200])
    def test_all_kinds_in_all_splits(self, tmp_path, monkeypatch, block):
        monkeypatch.setattr(csv_source, "PART_BYTES", block)
        lines = [line for pair in zip(GOOD, [*BAD] * 4, strict=False) for line in pair]
        splits = {name: write(tmp_path / f"{name}.csv", lines) for name in ("train", "valid", "test")}
        data = prepare(SCHEMA, **splits, bad_rows="skip", out=tmp_path / "out")
        assert {name: len(rows) for name, rows in data.splits.items()} == dict.fromkeys(splits, 40)
        assert data.notes[-6] == "120 bad rows were left out"
        said = [SKIPPED.get(row, reason) for row, reason in BAD.items()][:5]
        assert data.notes[-5:] == tuple(
            f"left out: {place(splits['train'], 3 + 2 * i, reason)}" for i, reason in enumerate(said)
        )
        assert PreparedData.open(tmp_path / "out").notes == data.notes

    def test_examples_are_in_order_over_all_files(self, tmp_path):
        first = write(tmp_path / "a.csv", [GOOD[0], "1\n", *GOOD[1:], "1,0,v0,a,x,0,1\n"])
        second = write(tmp_path / "b.csv", ["1,0,v0,a,1,3,1\n", "2\n", *GOOD])
        notes = prepare(SCHEMA, [first, second], bad_rows="skip", holdout=0).notes[-5:]
        assert notes[0] == "4 bad rows were left out"
        assert [note.rpartition(".csv, ")[2].split(":")[0].split(",")[0] for note in notes[1:]] == [
            "line 3",
            "line 43",
            "line 2",
            "line 3",
        ]

    def test_held_out_rows_are_the_same_in_both_passes(self, tmp_path):
        """A key that only fails in the second pass does not change which later rows are held out."""
        schema = Schema([Categorical("c")], [Task("t", "y")], keys=["k"])
        frame = pd.DataFrame({"c": [f"v{i}" for i in range(400)], "y": [0, 1] * 200, "k": range(400)})
        good = prepare(schema, frame)
        held_out = good.valid.keys.column("k").to_pylist()
        frame["k"] = frame["k"].astype(str).where(frame["k"] != held_out[0], "odd")
        frame.to_csv(tmp_path / "a.csv", index=False)
        data = prepare(schema, tmp_path / "a.csv", bad_rows="skip")
        assert data.valid.keys.column("k").to_pylist() == held_out[1:]
        assert data.train.keys.equals(good.train.keys)
        assert data.notes[-1].endswith("column 'k': 'odd' is not an integer, as this key was in the training rows")

    def test_all_rows_bad(self, tmp_path):
        path = write(tmp_path / "a.csv", ["1\n", "2\n"])
        with pytest.raises(DataError, match=r"there are no rows in .*; 2 bad rows were left out; left out: "):
            prepare(SCHEMA, path, bad_rows="skip")

    def test_many_bad_rows_are_as_fast_as_good_ones(self, tmp_path):
        rows = 60_000
        seconds = {}
        for name, value in (("good", "1.5"), ("bad", "x")):
            path = write(tmp_path / f"{name}.csv", [f"1,0,v0,a,{value},0,1\n"] * rows + GOOD)
            start = time.perf_counter()
            data = prepare(SCHEMA, path, bad_rows="skip", holdout=0)
            seconds[name] = time.perf_counter() - start
            assert len(data.train) == 40 + (rows if name == "good" else 0)
        assert data.notes[-6] == "60,000 bad rows were left out"
        assert seconds["bad"] < 3 * seconds["good"] + 1

    def test_parquet_and_frames(self, tmp_path):
        frame = pd.DataFrame({"c": ["a", "b"] * 20, "x": ["1", "2.5", "x", "-inf"] * 10, "y": [0, 1, 0, 2] * 10})
        schema = Schema([Categorical("c"), Numeric("x")], [Task("t", "y")])
        frame.to_parquet(tmp_path / "a.parquet")
        for data, name in ((frame, "the train frame"), (tmp_path / "a.parquet", f"{tmp_path}/a.parquet")):
            prepared = prepare(schema, data, bad_rows="skip", holdout=0)
            assert prepared.train.labels["y"].tolist() == [0, 1] * 10
            assert prepared.notes[0] == "20 bad rows were left out"
            assert prepared.notes[1] == f"left out: {name}, row 3, column 'x': 'x' is not a number"
            assert prepared.notes[2] == f"left out: {name}, row 4, column 'x': '-inf' is not a finite number"

    def test_parquet_of_bytes(self, tmp_path):
        import pyarrow as pa

        table = pa.table({"c": [b"a", "Ü".encode(), b"\xff", None], "y": [0, 1, 0, 1]})
        pq.write_table(table, tmp_path / "a.parquet")
        schema = Schema([Categorical("c")], [Task("t", "y")])
        with pytest.raises(DataError, match=r"row 3, column 'c': '\ufffd' is not text in UTF-8"):
            prepare(schema, tmp_path / "a.parquet", holdout=0)
        data = prepare(schema, tmp_path / "a.parquet", holdout=0, bad_rows="skip")
        assert data.schema.vocabularies["c"].to_pylist() == ["a", "Ü"]
        assert len(data.train) == 3


class TestEncode:
    def test_counted(self, tmp_path):
        fitted = prepare(SCHEMA, write(tmp_path / "a.csv", GOOD), holdout=0).schema
        path = write(tmp_path / "b.csv", [*BAD, *GOOD[:3], "1,2.5,v0,a,1,0,1\n"])
        said: list[str] = []
        rows = sum(len(part) for part in encode_rows(fitted, path, bad_rows="skip", note=said.append))
        assert rows == 3
        assert said[0] == f"{len(BAD) + 1} bad rows were left out"
        assert len(said) == 6
        with pytest.warns(UserWarning, match="left out"):
            list(encode_rows(fitted, path, bad_rows="skip"))
        with warnings.catch_warnings():
            list(encode_rows(fitted, write(tmp_path / "c.csv", GOOD), bad_rows="skip"))

    def test_cache_distinguishes_both_options(self, tmp_path):
        path = write(tmp_path / "a.csv", [*GOOD, "1\n"])
        data = prepare_cached(SCHEMA, str(path), holdout=0, cache=tmp_path / "cache", bad_rows="skip")
        assert len(data.train) == 40
        with pytest.raises(DataError, match="1 column, expected 7"):
            prepare_cached(SCHEMA, str(path), holdout=0, cache=tmp_path / "cache")


class TestIds:
    IDS = ("9007199254740993", "9223372036854775807", "9223372036854775808", "18446744073709551617", "-5")

    @pytest.mark.parametrize("bad_rows", ["error", "skip"])
    def test_large_and_negative_ids_are_exact(self, tmp_path, bad_rows):
        path = write(tmp_path / "a.csv", [f"{i},{n % 2}\n" for n, i in enumerate(self.IDS)], "id,y\n")
        schema = Schema([Categorical("id")], [Task("t", "y")], keys=["id"])
        data = prepare(schema, path, holdout=0, bad_rows=bad_rows)
        assert sorted(data.schema.vocabularies["id"].to_pylist()) == sorted(self.IDS)
        assert data.train.keys.column("id").to_pylist() == list(self.IDS)
        assert not [note for note in data.notes if "left out" in note]

    def test_ids_are_integers_if_all_fit(self, tmp_path):
        ids = ["-9223372036854775808", *self.IDS[:2], "-5"]
        schema = Schema([Categorical("id")], [Task("t", "y")], keys=["id"])
        path = write(tmp_path / "a.csv", [f"{i},{n % 2}\n" for n, i in enumerate(ids)], "id,y\n")
        assert prepare(schema, path, holdout=0).train.keys.column("id").to_pylist() == [int(i) for i in ids]

    @pytest.mark.parametrize("text", ["1.5e3", "15E+2", "+1500", "1500.", "1500"])
    @pytest.mark.parametrize("bad_rows", ["error", "skip"])
    def test_spellings_of_numbers(self, tmp_path, text, bad_rows):
        schema = Schema([Numeric("x", transform="none")], [Task("t", "y")])
        path = write(tmp_path / "a.csv", [f"{text},0\n", "-2.5E-3,1\n"], "x,y\n")
        numbers = prepare(schema, path, holdout=0, bad_rows=bad_rows).train.packed()[:, 0].numpy().view(np.float32)
        np.testing.assert_array_equal(numbers, np.float32([1500, -0.0025]))


def test_bad_dates_are_skipped_and_counted(tmp_path):
    path = tmp_path / "dates.csv"
    path.write_text("t,y\n2024-01-02,0\n1,2,3\nnotadate,1\n2024-02-03,1\nalso not,0\n")
    schema = Schema([Timestamp("t")], [Task("t", "y")])
    data = prepare(schema, path, holdout=0, bad_rows="skip")
    assert len(data.train) == 2
    form = "dates in another form need a `format`"
    assert [note for note in data.notes if "left out" in note] == [
        "3 bad rows were left out",
        f"left out: {path}, line 3: 3 columns, expected 2",
        f"left out: {path}, line 4, column 't': 'notadate' is not an ISO 8601 date: {form}",
        f"left out: {path}, line 6, column 't': 'also not' is not an ISO 8601 date: {form}",
    ]


@pytest.mark.parametrize("spelling", ["nan", "NaN", "-nan", "+nan", "-NaN"])
def test_nan_is_missing_despite_bad_values_in_the_column(tmp_path, spelling):
    path = tmp_path / "numbers.csv"
    path.write_text(f"x,y\n1,0\n{spelling},1\n2,0\nzz,1\n")
    schema = Schema([Numeric("x")], [Task("t", "y")])
    assert len(prepare(schema, path, holdout=0, bad_rows="skip").train) == 3
    with pytest.raises(DataError, match=r"numbers.csv, line 5, column 'x': 'zz' is not a number"):
        prepare(schema, path, holdout=0)


def test_row_that_only_fails_among_others():
    def check(batch):
        if batch.num_rows > 1:
            raise BadValueError(0, "c", "a", "alike", np.array([True, True, False]))

    table, skipped = pa.table({"c": ["a", "b", "b"]}), BadRowCounter()
    assert skipped.bad(table.to_batches()[0], {"c": check}, 0).tolist() == [True, True, False]
    skipped.finish(TableSource(table, "the frame"))
    assert skipped.notes()[1:] == [
        f"left out: the frame, row {i}, column 'c': '{v}' is not alike" for i, v in ((1, "a"), (2, "b"))
    ]


LONG = "a,1,0,b\n"


@pytest.mark.parametrize("bad", [LONG, "a,1\n"], ids=["longer", "shorter"])
@pytest.mark.parametrize("row", [0, 3, 2_990], ids=["first", "head", "block"])
def test_inference_refuses_malformed_records_as_prepare_does(tmp_path, monkeypatch, row, bad):
    """A record beyond the head is found in a block that is read."""
    monkeypatch.setattr(sample, "HEAD_BYTES", 1 << 10)
    monkeypatch.setattr(sample, "BLOCK_BYTES", 1 << 10)
    lines = [f"v{i % 7},{i % 50 / 4},{i % 2}\n" for i in range(3_000)]
    path = write(tmp_path / "a.csv", [*lines[:row], bad, *lines[row:]], "c,x,y\n")
    schema = Schema([Categorical("c"), Numeric("x")], [Task("y", "y")])
    said = []
    for read in (lambda: Schema.infer(path, ["y"]), lambda: prepare(schema, path, holdout=0)):
        with pytest.raises(DataError) as error:
            read()
        said.append(str(error.value))
    assert said == [f"{path}, line {row + 2}: {4 if bad == LONG else 2} columns, expected 3"] * 2
    with pytest.warns() as warned:
        inferred = Schema.infer(path, ["y"], bad_rows="skip")
    assert [str(w.message) for w in warned] == ["1 bad row was left out", f"left out: {said[0]}"]
    assert [f.name for f in inferred.features] == ["c", "x"]
    assert prepare(schema, path, holdout=0, bad_rows="skip").notes == tuple(str(w.message) for w in warned)


@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_inference_refuses_an_unclosed_quote_as_prepare_does(tmp_path, bad_rows):
    lines = [f"v{i},{i / 4},{i % 2}\n" for i in range(300)]
    path = write(tmp_path / "a.csv", [*lines[:290], 'v7,1,"1\n', *lines[290:]], "c,x,y\n")
    schema = Schema([Categorical("c"), Numeric("x")], [Task("y", "y")])
    for read in (
        lambda: Schema.infer(path, ["y"], bad_rows=bad_rows),
        lambda: prepare(schema, path, holdout=0, bad_rows=bad_rows),
    ):
        with pytest.raises(DataError, match=r"a\.csv, line 292: a quote is opened in this row and never closed"):
            read()
