import itertools
import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from together import place

from recmtl.data import DataError, Loader, PreparedData, Rows, prepare
from recmtl.data.sources import csv as csv_source
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, Task
from recmtl.schema.serialization import FITTED_FILES

SCHEMA = Schema(
    [Categorical("c"), Numeric("x", transform="none"), MultiCategorical("m")],
    [Task("t", "y"), Task("u", "r", kind="regression")],
    keys=["k"],
    weight="w",
)
FRAME = pd.DataFrame(
    {
        "c": ["a", "b", "a"],
        "x": [1.5, -2.0, 0.25],
        "m": ["p|q", None, "q"],
        "y": [1, 0, None],
        "r": [-1.5, None, 7.0],
        "w": [1.0, 0.0, 2.5],
        "k": [2**53 + 1, 7, 8],
    }
)


@pytest.fixture
def folder(tmp_path):
    prepare(SCHEMA, FRAME, FRAME[:2], FRAME[1:], out=tmp_path / "data")
    return tmp_path / "data"


def test_packed_rows_hold_every_part_bit_by_bit(folder):
    rows = PreparedData.open(folder).train
    packed = rows.packed()
    assert packed.dtype == torch.int32
    assert packed.shape == (3, 1 + 1 + 2 + 1)
    assert rows.widths == {"ids": 1, "numeric": 1, "labels": 2, "weight": 1}
    q, p = 2, 3
    assert packed[:, 0].tolist() == [2, 3, 2]
    (lists,) = rows.lists()
    assert (lists.values.tolist(), lists.offsets.tolist()) == ([p, q, 1, q], [0, 2, 3, 4])
    floats = packed[:, 1:].view(torch.float32).numpy()
    np.testing.assert_array_equal(floats, FRAME[["x", "y", "r", "w"]].to_numpy(np.float32))


def test_labels_weight_and_keys(folder):
    rows = PreparedData.open(folder).train
    np.testing.assert_array_equal(rows.labels["y"], [1, 0, np.nan])
    np.testing.assert_array_equal(rows.labels["r"], [-1.5, np.nan, 7])
    np.testing.assert_array_equal(rows.weight, [1, 0, 2.5])
    assert rows.keys.to_pydict() == {"k": [2**53 + 1, 7, 8]}


def test_rows_in_several_chunks():
    parts = prepare(SCHEMA, [FRAME[:1], FRAME[1:2], FRAME[2:]], FRAME[:1]).train
    assert parts.table.column("ids").num_chunks == 3
    whole = prepare(SCHEMA, FRAME, FRAME[:1]).train
    np.testing.assert_array_equal(parts.packed(), whole.packed())
    assert [x.tolist() for x in parts.lists()[0]] == [x.tolist() for x in whole.lists()[0]]


def test_no_rows_of_a_split_are_packed(folder):
    """A process of several may have no row of a split."""
    rows = PreparedData.open(folder).valid
    assert rows.packed([(1, 1)]).shape == (0, 5)
    empty = Rows(rows.schema, rows.table.slice(0, 0))
    assert empty.packed().shape == (0, 5)
    assert [[x.tolist() for x in part] for part in (*rows.lists([(1, 1)]), *empty.lists())] == [[[], [0]]] * 2


@pytest.mark.parametrize("form", ["frame", "frames", "csv", "parquet"])
def test_equal_rows_have_one_fingerprint_in_memory_and_on_disk(tmp_path, monkeypatch, form):
    """A run that began on rows in memory resumes on the same rows on disk, and the other way round."""
    monkeypatch.setattr(csv_source, "PART_BYTES", 1 << 10)  # several batches, parsed and encoded by threads
    frame = pd.concat([FRAME] * 400)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet", index=False)
    files = {"csv": tmp_path / "rows.csv", "parquet": tmp_path / "rows.parquet"}
    train = {"frame": frame, "frames": [frame[start : start + 100] for start in range(0, 1200, 100)], **files}[form]
    made = [prepare(SCHEMA, train, test=FRAME, out=out) for out in (None, None, tmp_path / "a", tmp_path / "b")]
    for split in ("train", "valid", "test"):
        assert len({data.splits[split].fingerprint for data in (*made, PreparedData.open(tmp_path / "a"))}) == 1
    assert len({data.fingerprint for data in made}) == 1


def test_fingerprint_covers_every_row():
    rows = prepare(SCHEMA, FRAME, FRAME).train
    other = rows.table.set_column(
        rows.table.column_names.index("key:k"), "key:k", pa.chunked_array([[2**53 + 1, 7, 9]])
    )
    tables = {"rows": rows.table, "order": rows.table.take([2, 1, 0]), "key": other, "less": rows.table.slice(1)}
    assert len({Rows(rows.schema, table).fingerprint for table in tables.values()}) == len(tables)


def test_fingerprint_of_rows_on_disk(tmp_path):
    frames = {"a": FRAME, "again": FRAME, "other key": FRAME.assign(k=[1, 2, 3]), "other value": FRAME.assign(x=0)}
    found = {name: prepare(SCHEMA, f, FRAME, FRAME, out=tmp_path / name).fingerprint for name, f in frames.items()}
    assert found["a"] == found["again"] == PreparedData.open(tmp_path / "a").fingerprint
    assert len({found["a"], found["other key"], found["other value"]}) == 3


def test_splits(folder):
    data = PreparedData.open(str(folder))
    assert [(name, len(rows), rows.name) for name, rows in data.splits.items()] == [
        ("train", 3, "train"),
        ("valid", 2, "valid"),
        ("test", 2, "test"),
    ]
    assert data.test.schema is data.schema
    with pytest.raises(DataError, match="has no test rows: it has train"):
        _ = prepare(SCHEMA, FRAME, holdout=0).test


def test_notes_are_kept(tmp_path):
    data = prepare(SCHEMA, FRAME.assign(x=1.0), holdout=0, out=tmp_path / "data")
    assert "numeric column 'x' is constant in the training rows" in data.notes
    assert PreparedData.open(tmp_path / "data").notes == data.notes


def test_not_a_prepared_dataset(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "gone", tmp_path / "file"):
        with pytest.raises(DataError, match=f"'{path}' is not a prepared dataset: it has no manifest.json"):
            PreparedData.open(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "manifest.json is damaged"),
        ('{"version": 8, ', "manifest.json is damaged"),
        (
            '{"version": 11}',
            "manifest.json is damaged, prepare the data again: its content does not match its checksum",
        ),
        ("[" * 100_000, "manifest.json is damaged, prepare the data again: it is nested too deeply"),
        ('{"version": 7}', "was prepared by another version"),
        ("[]", "was prepared by another version: prepare the data again"),
        ('{"version": 99}', "was prepared by another version"),
    ],
)
def test_damaged_manifest(folder, text, message):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        PreparedData.open(folder)


def test_manifest_that_is_no_text(folder):
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        PreparedData.open(folder)


@pytest.mark.parametrize("file", ["train-00000.arrow", "valid-00000.arrow", "test-00000.arrow", *FITTED_FILES])
@pytest.mark.parametrize("keep", [0, 8, 200, -1])
def test_truncated_file(folder, file, keep):
    path = folder / file
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    found = f"{len(content[:keep]):,} bytes of {len(content):,}"
    with pytest.raises(DataError, match=rf"{path} is damaged, prepare the data again: it has {found}"):
        PreparedData.open(folder)


@pytest.mark.parametrize("file", ["test-00000.arrow", *FITTED_FILES])
def test_missing_file(folder, file):
    (folder / file).unlink()
    with pytest.raises(DataError, match=rf"{folder / file} is damaged, prepare the data again: it is missing"):
        PreparedData.open(folder)
    (folder / file).mkdir()
    with pytest.raises(DataError, match=rf"{folder / file} is damaged, prepare the data again: it is no file"):
        PreparedData.open(folder)


def test_files_of_other_datasets(folder):
    (folder / "valid-00000.arrow").write_bytes((folder / "test-00000.arrow").read_bytes())
    with pytest.raises(DataError, match=r"valid-00000\.arrow is damaged"):
        PreparedData.open(folder).check()
    content = json.loads((folder / "schema.json").read_text())
    content["moments"]["x"]["mean"] = 0.5
    (folder / "schema.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"schema\.json is damaged"):
        PreparedData.open(folder)


def test_repr_fits_a_line(folder):
    data = PreparedData.open(folder)
    assert repr(data) == "PreparedData(train 3 · valid 2 · test 2 rows; 3 features; tasks t, u)"
    assert repr(data.train) == "Rows(train: 3 rows; 3 features; tasks t, u)"
    (batch,) = Loader(data.train, 3).epoch()
    assert repr(batch) == "Batch(3 rows; ids [3, 1], numeric [3, 1], labels [3, 2], weight [3], list 0 [4]; cpu)"
    part = "Batch(1 of 3 rows; ids [1, 1], numeric [1, 1], labels [1, 2], weight [1], list 0 [2]; cpu)"
    assert repr(batch.part(place(0, 2))) == part


def test_a_notebook_shows_tables(folder):
    tables = [
        [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", table, re.S)]
        for table in re.findall(r"<table.*?</table>", PreparedData.open(folder)._repr_html_(), re.S)
    ]
    splits, features, tasks = tables
    assert splits == [["split", "rows"], ["train", "3"], ["valid", "2"], ["test", "2"]]
    assert features == [["feature", "columns"], ["Categorical", "1"], ["Numeric", "1"], ["MultiCategorical", "1"]]
    assert [row[:3] for row in tasks] == [["task", "label", "training rows"], ["t", "y", "1"], ["u", "r", "2"]]


def test_shards_are_one_split_and_those_without_wanted_rows_are_not_read(folder):
    """Rows of any ranges are those of the whole, whichever shard holds them."""
    rows = PreparedData.open(folder).train
    cuts = [0, 1, 1, len(rows)]
    many = Rows(rows.schema, [rows.table.slice(start, end - start) for start, end in itertools.pairwise(cuts)])
    for spans in (None, [(0, len(rows))], [(1, 2), (0, 2)], [(0, 1)], [(2, 3)], [(1, 1)]):
        assert many.packed(spans).equal(rows.packed(spans))
        assert all(a.values.equal(b.values) for a, b in zip(many.lists(spans), rows.lists(spans), strict=True))
    fresh = Rows(rows.schema, many._shards)
    fresh.packed([(0, 1)])
    assert [*fresh._tables] == [0]
