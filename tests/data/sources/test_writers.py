"""The same rows as each writer writes them by its defaults are read as the same values."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import recmtl

ROWS = 240
X = [None if i % 7 == 0 else (i * 37 % 101) / 4 for i in range(ROWS)]
G = [None if i % 11 == 0 else "abc"[i % 3] for i in range(ROWS)]
CLICK = [i % 5 < 2 for i in range(ROWS)]
FRAME = pd.DataFrame({"x": X, "g": G, "click": CLICK})
SCHEMA = {"features": [{"numeric": "x"}, {"categorical": "g"}], "tasks": [{"name": "click", "label": "click"}]}
CRC = ".part-0.crc"


def lines(path, separator, null, true, false, quote="", head=("x", "g", "click"), decimal=".", **text):
    """Write the rows as text."""
    words = [
        (
            null if x is None else f"{x}".replace(".", decimal),
            null if g is None else f"{quote}{g}{quote}",
            true if c else false,
        )
        for x, g, c in zip(X, G, CLICK, strict=True)
    ]
    rows = [separator.join(f"{quote}{name}{quote}" for name in head)] * bool(head) + [separator.join(w) for w in words]
    path.write_text("\n".join(rows) + "\n", **text)
    return path


def arrow(kinds):
    """Return the rows with columns of some types."""
    values = {"x": pa.array(X, pa.float64()), "g": pa.array(G, pa.string()), "click": pa.array(CLICK, pa.bool_())}
    plain = {"g": pa.binary()} if kinds["g"] == pa.binary_view() else {}
    return pa.table({name: values[name].cast(plain.get(name, values[name].type)).cast(kinds[name]) for name in values})


def run_end_encoded():
    columns = [pc.run_end_encode(column.combine_chunks()) for column in arrow(PLAIN).columns]
    return pa.table(columns, names=list(PLAIN))


def parted(folder, suffix):
    """Write folders of parts as Spark and Hive do, with what lies beside them."""
    for g, rows in FRAME.groupby("g", dropna=False):
        part = folder / f"g={'__HIVE_DEFAULT_PARTITION__' if pd.isna(g) else g}"
        part.mkdir(parents=True)
        rows = rows.drop(columns="g")
        path = part / f"part-0{suffix}"
        rows.to_parquet(path) if suffix == ".parquet" else rows.to_csv(path, index=False)
        (part / CRC).write_bytes(b"crc")
    (folder / "_SUCCESS").touch()
    return folder


PLAIN = {"x": pa.float64(), "g": pa.string(), "click": pa.bool_()}
VIEWS = {"x": pa.float64(), "g": pa.string_view(), "click": pa.bool_()}
BINARY = {"x": pa.float32(), "g": pa.binary_view(), "click": pa.int8()}
CODES = {"x": pa.float64(), "g": pa.dictionary(pa.int32(), pa.string()), "click": pa.bool_()}
DECIMAL = {"x": pa.decimal128(10, 2), "g": pa.large_string(), "click": pa.uint8()}


def feather(table, path):
    pa.feather.write_feather(table, path, compression="uncompressed")
    return path


def parquet(table, path):
    pq.write_table(table, path)
    return path


WRITERS = {
    "pandas to_csv": (lambda p: FRAME.to_csv(p / "a.csv") or p / "a.csv", {}),
    "pandas to_csv gzip": (lambda p: FRAME.to_csv(p / "a.csv.gz", index=False) or p / "a.csv.gz", {}),
    "pandas to_parquet": (
        lambda p: FRAME.sample(frac=1).sort_index().to_parquet(p / "a.parquet") or p / "a.parquet",
        {},
    ),
    "pandas frame": (lambda p: FRAME, {}),
    "pandas nullable frame": (lambda p: FRAME.convert_dtypes(), {}),
    "Hive text": (
        lambda p: lines(p / "000000_0", "\x01", "\\N", "true", "false", head=()),
        {"separator": "\x01", "header": ["x", "g", "click"]},
    ),
    "Hive folders": (lambda p: parted(p / "table", ".parquet"), {}),
    "Spark CSV folders": (lambda p: parted(p / "table", ".csv"), {}),
    "Spark CSV": (lambda p: lines(p / "part-0.csv", ",", '""', "true", "false"), {}),
    "spreadsheet, comma": (lambda p: lines(p / "a.csv", ",", "", "TRUE", "FALSE", encoding="utf-8-sig"), {}),
    "spreadsheet, decimal comma": (
        lambda p: lines(p / "a.csv", ";", "", "TRUE", "FALSE", decimal=",", encoding="utf-8-sig", newline="\r\n"),
        {"decimal": ","},
    ),
    "R write.csv": (lambda p: lines(p / "a.csv", ",", "NA", "TRUE", "FALSE", quote='"'), {}),
    "Polars write_csv": (lambda p: lines(p / "a.csv", ",", "", "true", "false"), {}),
    "Polars write_parquet": (lambda p: parquet(arrow(VIEWS), p / "a.parquet"), {}),
    "Polars write_ipc": (lambda p: feather(arrow(VIEWS), p / "a.arrow"), {}),
    "DuckDB Parquet": (lambda p: parquet(arrow(DECIMAL), p / "a.parquet"), {}),
    "database COPY": (lambda p: lines(p / "a.tsv", "\t", "\\N", "1", "0"), {}),
    "pyarrow dictionary": (lambda p: arrow(CODES), {}),
    "pyarrow binary_view": (lambda p: arrow(BINARY), {}),
    "pyarrow run-end encoded": (lambda p: run_end_encoded(), {}),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_values(writer, tmp_path):
    write, options = WRITERS[writer]
    data = write(tmp_path)
    read = recmtl.describe(data, recmtl.Schema.from_dict(SCHEMA | options))
    columns = read.columns.set_index("column")
    missing = {"x": FRAME["x"].isna().mean(), "g": FRAME["g"].isna().mean()}
    assert columns.loc[["x", "g"], "missing"].to_dict() == pytest.approx(missing)
    numbers = read.numbers.set_index("column").loc["x"]
    assert numbers["mean"] == pytest.approx(np.nanmean(FRAME["x"]))
    assert numbers["deviation"] == pytest.approx(np.nanstd(FRAME["x"]))
    assert read.labels["positives"].tolist() == [sum(CLICK)]
    inferred = recmtl.Schema.infer(data, ["click"], **options)
    assert {f.name: type(f) for f in inferred.features} == {"x": recmtl.Numeric, "g": recmtl.Categorical}
    found = recmtl.prepare(inferred, data, holdout=0).schema.vocabularies["g"]
    assert set(found.to_pylist()) == set("abc")


@pytest.mark.parametrize(
    "kind", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view], ids=lambda kind: kind.__name__
)
@pytest.mark.parametrize("write", [parquet, feather, lambda table, path: table], ids=["parquet", "arrow", "memory"])
def test_lists_of_every_layout(kind, write, tmp_path):
    """Of a layout with views, too."""
    values = [None if i % 9 == 0 else list("abc"[: i % 4]) for i in range(ROWS)]
    table = pa.table({"m": pa.array(values, kind(pa.string())), "click": CLICK})
    data = write(table, tmp_path / ("a.arrow" if write is feather else "a.parquet"))
    inferred = recmtl.Schema.infer(data, ["click"])
    assert [type(f) for f in inferred.features] == [recmtl.MultiCategorical]
    found = recmtl.prepare(inferred, data, holdout=0)
    lists = pa.table({"m": pa.array(values), "click": CLICK})
    plain = recmtl.prepare(inferred, lists, holdout=0)
    assert found.schema.vocabularies["m"].to_pylist() == list("abc")
    assert found.train.packed().tolist() == plain.train.packed().tolist()
