"""What holds no rows that can be read ends in one sentence, the same wherever it is given."""

import gzip
import lzma
import pickle
import shutil
import tarfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest

import recmtl
from recmtl.data import DataError
from recmtl.data.sources.open import open_sources

FRAME = pd.DataFrame({"x": np.linspace(0, 1, 50), "g": list("abcde") * 10, "click": [0, 1] * 25})
TEXT = FRAME.to_csv(index=False)
SCHEMA = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("click", "click")])
WAYS = {
    "infer": lambda data: recmtl.Schema.infer(data, ["click"]),
    "describe": lambda data: recmtl.describe(data, labels=["click"]),
    "prepare": lambda data: recmtl.prepare(SCHEMA, data, holdout=0),
}


def tar(path):
    (path.parent / "a.csv").write_text(TEXT)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.parent / "a.csv", "a.csv")


FILES = {
    "a.csv.xz": (lambda p: p.write_bytes(lzma.compress(TEXT.encode())), "packed by xz: unpack it"),
    "a.csv": (lambda p: p.write_bytes(gzip.compress(TEXT.encode())), "rename it to end in .gz"),
    "a.pkl": (lambda p: p.write_bytes(pickle.dumps(FRAME)), "is a pickle"),
    "a.tar.gz": (tar, "is a tar archive: unpack it"),
    "a.csv.zip": (lambda p: FRAME.to_csv(p, index=False), "is a zip or a spreadsheet"),
    "a.npy": (lambda p: np.save(p, FRAME["x"]), "is a NumPy file"),
    "a.json": (lambda p: FRAME.to_json(p), "is JSON"),
    "b.json": (lambda p: FRAME.to_json(p, orient="records"), "is JSON"),
    "a.ndjson": (lambda p: FRAME.to_json(p, orient="records", lines=True), "is JSON"),
    "a.ndjson.gz": (lambda p: FRAME.to_json(p, orient="records", lines=True), "is JSON"),
    "utf16.csv": (lambda p: p.write_bytes(TEXT.encode("utf-16")), "is not in UTF-8"),
    "utf16le.csv": (lambda p: p.write_bytes(TEXT.encode("utf-16-le")), "is not in UTF-8"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", FILES)
def test_files(name, way, tmp_path):
    write, sentence = FILES[name]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
        way(tmp_path / name)
    assert sentence in str(caught.value)


class LazyFrame:
    """A stand-in for Polars' class of this name."""

    __module__ = "polars.lazyframe.frame"

    def collect(self):
        return FRAME


class ObjectFrame:
    """A stand-in for a Polars frame with a column of Python objects, of which Arrow gets the addresses."""

    def __init__(self):
        self.schema = {"x": "Float64", "g": "Object", "click": "Int64"}

    def __arrow_c_stream__(self, requested_schema=None):
        addresses = pa.array([b"abcdefgh"] * len(FRAME), pa.binary(8))
        return pa.Table.from_pandas(FRAME).set_column(1, "g", addresses).__arrow_c_stream__(requested_schema)


OBJECTS = {
    "python objects": (ObjectFrame, "column 'g' holds Python objects: cast it"),
    "lazy": (LazyFrame, "give `data.collect()`"),
    "dataset": (lambda: pa.dataset.dataset(pa.Table.from_pandas(FRAME)), "`data.to_table()`"),
    "dict": (lambda: FRAME.to_dict("list"), "a dict is not read: give `pandas.DataFrame(data)`"),
    "dicts": (lambda: FRAME.to_dict("records"), "a list of dicts is not read: give `pandas.DataFrame(data)`"),
    "array": (lambda: FRAME.to_numpy(), "rows cannot be read from a ndarray"),
    "series": (lambda: FRAME["x"], "a Series is one column"),
    "iterator": (lambda: (frame for frame in [FRAME]), "a generator can be read once only: give a list"),
    "number": (lambda: 3, "rows cannot be read from a int"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", OBJECTS)
def test_objects(name, way):
    make, sentence = OBJECTS[name]
    with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
        way(make())
    assert sentence in str(caught.value)


def test_a_reader_is_not_consumed_by_inference():
    reader = pa.Table.from_pandas(FRAME).to_reader()
    with pytest.raises(ValueError, match=r"a RecordBatchReader can be read once only: give `data.read_all\(\)`"):
        recmtl.Schema.infer(reader, ["click"])
    assert len(recmtl.prepare(SCHEMA, reader, holdout=0).train) == len(FRAME)
    with pytest.raises(ValueError, match="can be read once only"):
        recmtl.describe(pa.Table.from_pandas(FRAME).to_reader(), labels=["click"])
    assert len(recmtl.prepare(SCHEMA, pa.RecordBatch.from_pandas(FRAME), holdout=0).train) == len(FRAME)


@pytest.mark.parametrize(
    ("kind", "log", "data", "export"),
    [
        ("Delta Lake", "_delta_log/00000000000000000000.json", "", "DeltaTable(…).to_pyarrow_dataset()"),
        ("Delta Lake", "_delta_log/00000000000000000000.json", "date=2024-01-01/hour=3", "to_pyarrow_dataset()"),
        ("Iceberg", "metadata/v1.metadata.json", "data", "table.scan().to_arrow()"),
        ("Iceberg", "metadata/00000-1b2c.metadata.json", "data/date=2024-01-01", "table.scan().to_arrow()"),
        ("Hudi", ".hoodie/hoodie.properties", "", "spark.read.format('hudi')"),
        ("Lance", "_versions/1.manifest", "data", "lance.dataset(…).to_table()"),
    ],
)
def test_a_table_with_a_log_is_refused_from_every_path_into_it(tmp_path, kind, log, data, export):
    """Its folder holds the files of deleted rows as well."""
    table = tmp_path / "table"
    (table / log).parent.mkdir(parents=True)
    (table / log).write_text("{}")
    (table / data).mkdir(parents=True, exist_ok=True)
    FRAME.to_parquet(table / data / "part-0.parquet")
    for path in (table, table / data, table / data / "*.parquet", table / data / "part-0.parquet"):
        for read in (open_sources, lambda path: recmtl.Schema.infer(path, ["click"])):
            with pytest.raises(DataError) as error:
                read(str(path))
            said = str(error.value)
            assert said.startswith(f"{table} is a table of {kind}, whose files hold deleted rows as well: export it")
            assert export in said
    rows = table.rename(tmp_path / "kept") / data / "part-0.parquet"
    shutil.move(rows, tmp_path / "rows.parquet")
    assert recmtl.Schema.infer(tmp_path / "rows.parquet", ["click"]).tasks[0].name == "click"


def test_a_folder_is_not_taken_for_a_table_by_its_name(tmp_path):
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "notes.json").write_text("{}")
    (tmp_path / ".hoodie").write_text("a file")
    (tmp_path / "data").mkdir()
    FRAME.to_parquet(tmp_path / "data" / "a.parquet")
    (source,) = open_sources(tmp_path / "data")
    assert "click" in source.columns
