"""The index of a pandas frame is no feature unless it is named: it tells which half of a sorted table a row is from."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

import recmtl
from recmtl.schema.readings import INDEX, infer_columns

ROWS = 600
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {"x": RNG.normal(size=ROWS), "g": RNG.choice(list("abc"), ROWS), "click": np.arange(ROWS) < ROWS // 3}
)  # sorted by its label
SAMPLE = TABLE.sample(frac=0.5, random_state=0)
FRAMES = {
    "sample": SAMPLE,
    "concat": pd.concat([TABLE[:300], TABLE[300:].reset_index(drop=True)]),
    "named": SAMPLE.rename_axis("rowid"),
    "text": TABLE.set_index("g"),
    "two levels": TABLE.set_index(["g", pd.Index(RNG.integers(0, 50, ROWS), name="day")]),
    "beside its column": TABLE.set_index("g", drop=False),
    "named as a number": TABLE.rename_axis(0),
    "one level without a name": TABLE.set_index(["g", pd.Index(RNG.integers(0, 50, ROWS))]),
}


def write(frame, form, path):
    if form == "frame":
        return frame
    if form == "table":
        return pa.Table.from_pandas(frame)
    if form == "feather":
        pa.feather.write_feather(pa.Table.from_pandas(frame), path / "a.feather")
        return path / "a.feather"
    frame.to_parquet(path / "a.parquet")
    return path / "a.parquet"


@pytest.mark.parametrize("form", ["frame", "table", "feather", "parquet"])
@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_is_no_feature(frame, form, tmp_path):
    data = write(frame, form, tmp_path)
    schema = recmtl.Schema.infer(data, ["click"])
    assert {f.name for f in schema.features} == {"x", "g"} & set(frame.columns)
    assert len(recmtl.prepare(schema, data, holdout=0).train) == len(frame)
    pattern = recmtl.Schema([recmtl.Categorical("[!c]*")], [recmtl.Task("click", "click")])
    read = recmtl.prepare(pattern, data, holdout=0).schema.schema
    assert {f.name for f in read.features} == {"x", "g"} & set(frame.columns)


@pytest.mark.parametrize("form", ["frame", "table", "feather", "parquet"])
def test_is_what_the_user_says(form, tmp_path):
    data = write(FRAMES["two levels"], form, tmp_path)
    found = infer_columns(data, ["click"])
    assert {r.column: r.reason for r in found.readings if not r.used} == {"g": INDEX, "day": INDEX}
    assert f"left out: g ({INDEX}), day ({INDEX})" in found.notes
    schema = recmtl.Schema.infer(data, ["click"], kinds={"g": "categorical"}, group="day")
    assert {f.name for f in schema.features} == {"x", "g"}
    assert set(recmtl.prepare(schema, data, holdout=0).schema.vocabularies["g"].to_pylist()) == set("abc")
    described = recmtl.describe(data, labels=["click"])
    assert f"left out: g ({INDEX}), day ({INDEX})" in described.notes


def test_a_metadata_of_another_program_is_passed_over(tmp_path):
    for metadata in (b"no JSON", b"[1]", b'{"index_columns": 3}', b'{"index_columns": [{"kind": "range"}, "none"]}'):
        table = pa.table({"x": [1.5, 2.5], "click": [0, 1]}).replace_schema_metadata({"pandas": metadata})
        pq.write_table(table, tmp_path / "a.parquet")
        assert [f.name for f in recmtl.Schema.infer(tmp_path / "a.parquet", ["click"]).features] == ["x"]


@pytest.mark.parametrize(
    "name", ["Unnamed: 0", "Unnamed: 0.1", "index", "level_0", "rownames", "row.names", "row_nr", "rowid", "...1"]
)
def test_names_of_row_numbers(name, tmp_path):
    """As pandas, R and Polars name them; where few rows of many are left, their values look like chance."""
    SAMPLE.assign(**{name: SAMPLE.index * 1000}).to_csv(tmp_path / "a.csv", index=False)
    assert [f.name for f in recmtl.Schema.infer(tmp_path / "a.csv", ["click"]).features] == ["x", "g"]
    said = recmtl.Schema.infer(tmp_path / "a.csv", ["click"], kinds={name: "numeric"})
    assert {f.name for f in said.features} == {"x", "g", name}


def test_names_of_row_numbers_with_other_values(tmp_path):
    values = {"index": np.arange(ROWS) % 5, "level_0": RNG.normal(size=ROWS), "rowid": RNG.choice(["p", "q"], ROWS)}
    TABLE.assign(**values).to_csv(tmp_path / "a.csv", index=False)
    assert {f.name for f in recmtl.Schema.infer(tmp_path / "a.csv", ["click"]).features} == {"x", "g", *values}
