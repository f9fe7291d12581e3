import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from recmtl.errors import DataError
from recmtl.schema import Categorical, Funnel, MultiCategorical, Numeric, Schema, SchemaError, Task, Timestamp

ROWS = 60
FRAME = pd.DataFrame(
    {
        "user_id": np.arange(ROWS) * 7,
        "half_ids": [float(i) if i % 2 else None for i in range(ROWS)],
        "age": np.arange(ROWS) + 18,
        "level": np.arange(ROWS) % 3,
        "price": np.arange(ROWS) / 7,
        "city": [f"city {i % 5}" for i in range(ROWS)],
        "genres": ["|".join(sorted({f"g{i % 4}", f"g{i % 3}"})) + f"|h{i % 2}" for i in range(ROWS)],
        "tags": [f"t{i % 7};t{i % 11}" for i in range(ROWS)],
        "new": [i % 2 == 0 for i in range(ROWS)],
        "note": [f"only|{i}" if i == 0 else f"text {i}" for i in range(ROWS)],
        "click": np.arange(ROWS) % 2,
        "buy": np.arange(ROWS) % 4 == 0,
        "search": np.arange(ROWS) // 3,
    }
)
EXPECTED = {
    "user_id": Categorical("user_id", min_count=2),
    "half_ids": Categorical("half_ids", min_count=2),
    "age": Numeric("age"),
    "level": Categorical("level", min_count=2),
    "price": Numeric("price"),
    "city": Categorical("city", min_count=2),
    "genres": MultiCategorical("genres", separator="|"),
    "tags": MultiCategorical("tags", separator=";"),
    "new": Categorical("new", min_count=2),
    "note": Categorical("note", min_count=2),
}
TASKS = [Task("ctr", "click")]
ROLES = {"funnel": Funnel("click", "buy"), "group": "search"}


def infer(data):
    schema = Schema.infer(data, TASKS, **ROLES)
    assert schema.tasks == tuple(TASKS)
    assert (schema.group, schema.funnel) == (ROLES["group"], ROLES["funnel"])
    return {f.name: f for f in schema.features}


def test_frame():
    assert infer(FRAME) == EXPECTED


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zst", "a.tsv", "a.parquet", "a.pq", "a.feather", "a.txt"])
def test_files(tmp_path, name):
    path = tmp_path / name
    if ".parquet" in name or ".pq" in name:
        FRAME.to_parquet(path)
    elif ".feather" in name:
        pyarrow.feather.write_feather(pa.Table.from_pandas(FRAME), path)
    else:
        text = FRAME.to_csv(index=False, sep="\t" if ".tsv" in name else ",").encode()
        with pa.output_stream(str(path), compression="detect") as stream:
            stream.write(text)
    assert infer(path) == EXPECTED
    assert infer(str(path)) == EXPECTED


def test_list_column(tmp_path):
    table = pa.table({"m": [["a", "b"], ["c"], None], "y": [0, 1, 0]})
    pq.write_table(table, tmp_path / "a.parquet")
    task = [Task("t", "y")]
    assert Schema.infer(tmp_path / "a.parquet", task).features == (MultiCategorical("m"),)
    assert Schema.infer(table.to_pandas(), task).features == (MultiCategorical("m"),)


def test_labels_may_be_named_alone_or_with_their_task(tmp_path):
    FRAME.assign(**{"a=b": FRAME["click"]}).to_csv(tmp_path / "a.csv", index=False)
    found = [Schema.infer(tmp_path / "a.csv", given).tasks for given in (["click"], "click", ["ctr=click"], ["a=b"])]
    assert found == [(Task("click", "click"),)] * 2 + [(Task("ctr", "click"),), (Task("a=b", "a=b"),)]


def test_roles_are_not_features():
    schema = Schema.infer(FRAME, TASKS, keys=["user_id"], weight="price")
    assert {"click", "user_id", "price"}.isdisjoint(f.name for f in schema.features)
    assert schema.keys == ("user_id",)
    assert schema.weight == "price"


def test_no_column_left_for_a_feature():
    with pytest.raises(SchemaError, match="at least one feature"):
        Schema.infer(FRAME[["click"]], TASKS)


def test_unreadable(tmp_path):
    with pytest.raises(DataError, match=r"there is no file '.*gone\.csv'"):
        Schema.infer(tmp_path / "gone.csv", TASKS)
    (tmp_path / "a.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(SchemaError, match=r"cannot infer a schema from '.*a\.parquet'"):
        Schema.infer(tmp_path / "a.parquet", TASKS)
    with pytest.raises(SchemaError, match="the frame cannot be read"):
        Schema.infer(pd.DataFrame({"x": [1, ["a"]], "click": [0, 1]}), TASKS)


@pytest.mark.parametrize("source", ["frame", "a.csv", "a.parquet"])
def test_dates_and_times(tmp_path, source):
    days = pd.date_range("2024-01-01", periods=5, freq="7h")
    frame = pd.DataFrame({"at": days, "on": days.date, "y": [0, 1, 0, 1, 0]})
    data = frame if source == "frame" else tmp_path / source
    if source == "a.csv":
        frame.to_csv(data, index=False)
    elif source == "a.parquet":
        frame.to_parquet(data)
    assert Schema.infer(data, [Task("t", "y")]).features == (
        Timestamp("at"),
        Timestamp("on", parts=("weekday", "day", "month")),
    )
