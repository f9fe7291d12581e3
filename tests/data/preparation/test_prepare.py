import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest
import torch

from recmtl.data import DataError, Loader, PreparedData, prepare
from recmtl.data.sources import csv as csv_source
from recmtl.data.sources import typed as sources
from recmtl.data.store.format import IDS
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, SchemaError, Task
from recmtl.schema.fitted import UNKNOWN

SCHEMA = Schema(
    [Categorical("c"), MultiCategorical("m"), Numeric("x*")],
    [Task("t", "y"), Task("u", "r", kind="regression")],
    group="g",
    keys=["k"],
    weight="w",
)
PLAIN = Schema([Categorical("c")], [Task("t", "y")], group="g")


def frame(rows=300, groups=100):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "g": rng.integers(groups, size=rows) + 2**53,
            "c": rng.integers(9, size=rows),
            "m": ["|".join(f"m{j}" for j in rng.integers(5, size=rng.integers(4))) or None for _ in range(rows)],
            "x1": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows)),
            "x2": rng.integers(100, size=rows),
            "y": rng.integers(2, size=rows),
            "r": rng.normal(size=rows).round(3),
            "w": rng.random(rows).round(3),
            "k": [f'row "{i}",\nnext' for i in range(rows)],
        }
    )


def content(data):
    """The content of a prepared dataset, to compare two of them."""
    rows = {name: (split.packed().tolist(), split.keys.to_pydict()) for name, split in data.splits.items()}
    return data.schema.fingerprint, rows, notes_of(data)


def save(data, path):
    if ".parquet" in path.name:
        data.to_parquet(path)
    elif path.suffix == ".arrow":
        pa.feather.write_feather(data, str(path))
    else:
        text = data.to_csv(index=False, sep="\t" if ".tsv" in path.name else ",")
        with pa.output_stream(str(path), compression="detect") as stream:
            stream.write(text.encode())
    return path


def notes_of(data):
    """The notes, except that of quoted line breaks, which only text files have."""
    return [note for note in data.notes if not note.endswith("within quoted values")]


def assert_alike(data, other):
    """Check equality except for the last bits of the moments, which are summed batch by batch."""
    assert notes_of(data) == notes_of(other)
    for name, vocabulary in other.schema.vocabularies.items():
        assert data.schema.vocabularies[name].to_pylist() == vocabulary.to_pylist()
    assert data.schema.lengths == other.schema.lengths
    for name, moments in other.schema.moments.items():
        assert data.schema.moments[name] == pytest.approx(moments, rel=1e-12)
    assert list(data.splits) == list(other.splits)
    for name, rows in other.splits.items():
        assert data.splits[name].keys.to_pydict() == rows.keys.to_pydict()
        mine, theirs = (next(Loader(r, 1000).epoch()) for r in (data.splits[name], rows))
        for part in ("ids", "numeric", "labels", "weight"):
            torch.testing.assert_close(getattr(mine, part), getattr(theirs, part), equal_nan=True)


@pytest.fixture(scope="module")
def expected():
    return content(prepare(SCHEMA, frame()))


class TestEquality:
    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst", "a.tsv", "a.parquet", "a.arrow"])
    def test_files_and_frames_are_encoded_alike(self, tmp_path, expected, name):
        assert content(prepare(SCHEMA, save(frame(), tmp_path / name))) == expected

    def test_parts_are_encoded_like_the_whole(self, tmp_path):
        data = frame()
        (tmp_path / "parts").mkdir()
        paths = [save(data[start : start + 120], tmp_path / "parts" / f"{start:03}.csv") for start in (0, 120, 240)]
        for parts in (paths, tmp_path / "parts", f"{tmp_path}/parts/*.csv", [data[:7], data[7:]]):
            assert_alike(prepare(SCHEMA, parts), prepare(SCHEMA, data))

    def test_sizes_of_batches_do_not_matter(self, tmp_path, monkeypatch):
        path, whole = save(frame(), tmp_path / "a.csv"), prepare(SCHEMA, frame())
        monkeypatch.setattr(csv_source, "PART_BYTES", 500)
        monkeypatch.setattr(sources, "FRAME_ROWS", 7)
        for data in (path, frame()):
            assert_alike(prepare(SCHEMA, data), whole)

    def test_order_of_columns_does_not_matter(self):
        columns = list(reversed(frame().columns))
        schema = SCHEMA.resolve(frame().columns)
        assert content(prepare(schema, frame()[columns])) == content(prepare(schema, frame()))

    def test_disk_and_memory(self, tmp_path, expected):
        assert content(prepare(SCHEMA, frame(), out=tmp_path / "a")) == expected
        assert content(PreparedData.open(tmp_path / "a")) == expected


class TestLeaks:
    def test_fitting_ignores_test_and_validation_rows(self):
        train = pd.DataFrame({"c": ["a", "b"], "x": [0.0, 2.0], "y": [0, 1]})
        other = pd.DataFrame({"c": ["new", "a", None], "x": [1e6, None, 1.0], "y": [1, 1, 1]})
        schema = Schema([Categorical("c"), Numeric("x")], [Task("t", "y")])
        data = prepare(schema, train, other, other)
        assert data.schema.vocabularies["c"].to_pylist() == ["a", "b"]
        assert data.schema.moments["x"] == (1.0, 1.0)
        assert data.schema.rates["y", None] == (2, 0.5)
        assert len(data.train) == 2
        for split in (data.valid, data.test):
            assert split.packed()[:, 0].tolist() == [UNKNOWN, 2, UNKNOWN]

    def test_fitting_ignores_held_out_rows(self):
        data = frame()
        held_out = set(prepare(PLAIN, data).valid.keys.column("g").to_pylist())
        planted = data.assign(c=np.where(data["g"].isin(held_out), "planted", np.where(data.index % 2, "c", "d")))
        numeric = Schema([Categorical("c"), Numeric("x2")], [Task("t", "y")], group="g")
        planted["x2"] = np.where(data["g"].isin(held_out), 1e9, data["x2"])
        planted["y"] = np.where(data["g"].isin(held_out), 1, 0)
        prepared = prepare(numeric, planted)
        assert set(prepared.schema.vocabularies["c"].to_pylist()) == {"c", "d"}
        assert set(prepared.valid.packed()[:, 0].tolist()) == {UNKNOWN}
        assert prepared.schema.moments["x2"].mean < 100
        assert prepared.schema.rates["y", None] == (len(prepared.train), 0.0)


class TestHoldout:
    def test_groups_stay_whole(self):
        data = prepare(PLAIN, frame(3000, 1000))
        train, valid = (set(split.keys.column("g").to_pylist()) for split in (data.train, data.valid))
        assert train.isdisjoint(valid)
        assert len(data.train) + len(data.valid) == 3000
        assert 0.07 < len(valid) / len(train | valid) < 0.13

    def test_depends_on_the_group_alone(self):
        data = frame(500)
        chosen = set(prepare(PLAIN, data).valid.keys.column("g").to_pylist())
        shuffled = data.sample(frac=1, random_state=1).astype({"g": str})
        other = prepare(PLAIN, shuffled[:200])
        assert set(other.valid.keys.column("g").to_pylist()) <= chosen
        assert set(other.train.keys.column("g").to_pylist()).isdisjoint(chosen)

    def test_is_the_same_in_another_process(self, tmp_path):
        chosen = sorted(set(prepare(PLAIN, frame()).valid.keys.column("g").to_pylist()))
        path = save(frame(), tmp_path / "a.csv")
        program = f"""
            from recmtl.data import prepare
            from recmtl.schema import *
            schema = Schema([Categorical("c")], [Task("t", "y")], group="g")
            print(sorted(set(prepare(schema, {str(path)!r}).valid.keys.column("g").to_pylist())))
        """
        command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
        assert done.stdout.strip() == str(chosen)

    def test_rows_without_a_group_are_held_out_by_their_number(self, monkeypatch):
        schema = Schema([Categorical("c")], [Task("t", "y")], group="g", keys=["k"])
        data = frame(2000).assign(k=range(2000))
        data["g"] = data["g"].astype("Int64").where(data["k"] % 2 == 0)
        prepared = prepare(schema, data)
        held_out = [k for k in prepared.valid.keys.column("k").to_pylist() if k % 2]
        assert 70 < len(held_out) < 130
        monkeypatch.setattr(sources, "FRAME_ROWS", 3)
        again = prepare(schema, data).valid.keys.column("k").to_pylist()
        assert [k for k in again if k % 2] == held_out
        by_number = prepare(schema, data.assign(g=pd.NA)).valid.keys.column("k").to_pylist()
        assert [k for k in by_number if k % 2] == held_out

    def test_without_a_group_column_rows_are_held_out_by_their_number(self, monkeypatch):
        schema = Schema([Categorical("c")], [Task("t", "y")], keys=["k"])
        data = frame(2000).assign(k=range(2000))
        prepared = prepare(schema, data)
        assert 150 < len(prepared.valid) < 250
        chosen = prepared.valid.keys.column("k").to_pylist()
        monkeypatch.setattr(sources, "FRAME_ROWS", 33)
        parts = prepare(schema, [data[:701], data[701:]])
        assert parts.valid.keys.column("k").to_pylist() == chosen

    def test_shares(self):
        assert list(prepare(PLAIN, frame(), holdout=0).splits) == ["train"]
        half = prepare(PLAIN, frame(2000, 1000), holdout=0.5)
        assert 900 < len(half.valid) < 1100
        smaller = set(prepare(PLAIN, frame(2000, 1000), holdout=0.2).valid.keys.column("g").to_pylist())
        assert smaller <= set(half.valid.keys.column("g").to_pylist())
        for share in (-0.1, 1.0, float("nan")):
            with pytest.raises(DataError, match=r"`holdout` must be in \[0, 1\), got"):
                prepare(PLAIN, frame(), holdout=share)

    def test_a_validation_file_replaces_it(self):
        data = prepare(PLAIN, frame(), frame(40))
        assert [len(split) for split in data.splits.values()] == [300, 40]

    def test_too_few_rows_for_it(self):
        data = prepare(PLAIN, pd.DataFrame({"c": ["a", "b"], "y": [0, 1], "g": [1, 1]}))
        assert list(data.splits) == ["train"]
        assert "no training row fell into the held-out share: there are no validation rows" in data.notes
        with pytest.raises(DataError, match="every training row fell into the held-out share"):
            prepare(PLAIN, pd.DataFrame({"c": ["a"], "y": [0], "g": [1]}), holdout=0.99)

    def test_a_fault_of_rows_that_are_all_held_out(self):
        """Of a column of the wrong type there is one row that names it, also if none of the batch is fitted."""
        good = pd.DataFrame({"c": ["a", "b"] * 20, "y": [0, 1] * 20, "g": range(40)})
        held_out = prepare(PLAIN, good, holdout=0.5).valid.keys.column("g").to_pylist()[:1]
        bad = pd.DataFrame({"c": [["a", "b"]], "y": [1], "g": held_out})
        with pytest.raises(DataError, match=r"row 1, column 'c': \['a', 'b'\] is not one category"):
            prepare(PLAIN, [good, bad], holdout=0.5)


class TestFaults:
    """Each error is one sentence with the file and, if known, line, column and value."""

    @pytest.mark.parametrize("holdout", [0, 0.5])
    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
    @pytest.mark.parametrize("row", [0, 17, 298])
    def test_bad_label(self, tmp_path, name, row, holdout):
        data = frame()
        data.loc[row, "y"] = 2
        path = save(data, tmp_path / name)
        where = f"row {row + 1}" if name == "a.parquet" else f"line {2 * row + 2}"  # each key has two lines
        with pytest.raises(DataError) as caught:
            prepare(SCHEMA, path, holdout=holdout)
        message = f"{path}, {where}, column 'y': '2' is not a binary label: expected a number from 0 to 1, or nothing"
        assert str(caught.value) == message

    def test_bad_value_in_the_second_file(self, tmp_path):
        good, bad = save(frame(), tmp_path / "a.csv"), frame()
        bad["x2"] = bad["x2"].astype(object)
        bad.loc[3, "x2"] = "many"
        path = save(bad, tmp_path / "b.csv")
        for splits in ({"train": [good, path]}, {"train": good, "valid": path}, {"train": good, "test": path}):
            with pytest.raises(DataError) as caught:
                prepare(SCHEMA, **splits, out=tmp_path / "out")
            assert str(caught.value) == f"{path}, line 8, column 'x2': 'many' is not a number"
            assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("value", [-1.0, None])
    def test_bad_weight(self, value):
        data = frame()
        data.loc[5, "w"] = value
        with pytest.raises(
            DataError, match=r"the train frame, row 6, column 'w': .* is not a weight: expected a number"
        ):
            prepare(SCHEMA, data)

    def test_missing_labels_are_nan(self):
        data = frame().astype({"y": "Int64"})
        data.loc[3, "y"] = pd.NA
        labels = prepare(SCHEMA, data, holdout=0).train.labels["y"]
        assert np.flatnonzero(np.isnan(labels)).tolist() == [3]

    @pytest.mark.parametrize("split", ["train", "valid", "test"])
    def test_missing_column(self, tmp_path, split):
        path = save(frame().rename(columns={"c": "C1"}), tmp_path / "a.csv")
        with pytest.raises(SchemaError, match=f"column 'c' is not in {path}"):
            prepare(SCHEMA, **({"train": frame()} | {split: path}))

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match=f"there is no file '{tmp_path}/gone.csv'"):
            prepare(SCHEMA, tmp_path / "gone.csv")

    @pytest.mark.parametrize("text", ["g,c,y\n", "g,c,y"])
    def test_only_a_header(self, tmp_path, text):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(DataError, match=f"there are no rows in {tmp_path}/a.csv"):
            prepare(PLAIN, tmp_path / "a.csv", out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_list_column_as_a_category(self):
        data = pa.table({"g": [1, 2], "c": [["a"], ["b"]], "y": [0, 1]})
        with pytest.raises(DataError, match=r"the train table, row 1, column 'c': \['a'\] is not one category"):
            prepare(PLAIN, data, holdout=0)


class Stop(Exception):  # noqa: N818
    pass


def stop_after(calls, error):
    """A progress callback that raises at some call."""
    seen = 0

    def progress(what, rows):
        nonlocal seen
        seen += 1
        if seen == calls:
            raise error

    return progress


class TestInterruption:
    @pytest.mark.parametrize("calls", [1, 2, 3, 5])
    def test_an_exception_leaves_nothing(self, tmp_path, monkeypatch, calls):
        monkeypatch.setattr(sources, "FRAME_ROWS", 150)
        for error in (Stop, KeyboardInterrupt):
            with pytest.raises(error):
                prepare(SCHEMA, frame(), test=frame(), out=tmp_path / "out", progress=stop_after(calls, error))
            assert list(tmp_path.iterdir()) == []
        assert len(prepare(SCHEMA, frame(), test=frame(), out=tmp_path / "out").test) == 300

    @pytest.mark.slow
    def test_a_kill_leaves_no_dataset(self, tmp_path):
        path = save(frame(), tmp_path / "a.csv")
        program = f"""
            import os, signal
            from recmtl.data import prepare
            from recmtl.schema import *
            def progress(what, rows):
                if what == "encode":
                    os.kill(os.getpid(), signal.SIGKILL)
            schema = Schema([Categorical("c")], [Task("t", "y")], group="g")
            prepare(schema, {str(path)!r}, out={str(tmp_path / "out")!r}, progress=progress)
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False)
        assert done.returncode == -9
        assert not (tmp_path / "out").exists()
        for left in tmp_path.iterdir():
            with pytest.raises(DataError):
                PreparedData.open(left)
        assert len(prepare(PLAIN, path, out=tmp_path / "out").train) > 200

    def test_an_existing_folder_is_not_overwritten(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        calls: list[str] = []
        with pytest.raises(DataError, match=f"'{tmp_path}/out' exists already"):
            prepare(PLAIN, frame(), out=tmp_path / "out", progress=lambda what, rows: calls.append(what))
        assert calls == []  # raised before hours of reading
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]
        (tmp_path / "file").write_text("mine")
        with pytest.raises(DataError, match="exists already"):
            prepare(PLAIN, frame(), out=tmp_path / "file")

    def test_an_empty_folder_is_used(self, tmp_path):
        (tmp_path / "out").mkdir()
        assert len(prepare(PLAIN, frame(), out=tmp_path / "out", holdout=0).train) == 300


def test_progress_counts_every_row_of_every_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "FRAME_ROWS", 100)
    seen: dict[str, int] = {}

    def progress(what, rows):
        seen[what] = seen.get(what, 0) + rows

    prepare(PLAIN, frame(), test=frame(50), progress=progress)
    assert seen == {"fit": 300, "encode": 350}


def test_schema_without_categories_or_numbers():
    only_numbers = prepare(Schema([Numeric("x2")], [Task("t", "y")]), frame(), holdout=0)
    assert only_numbers.train.widths == {IDS: 0, "numeric": 1, "labels": 1}
    assert prepare(PLAIN, frame(), holdout=0).train.packed().shape == (300, 2)
