"""Ids that no training row has: of columns that never vary, and of missing values where none is missing."""

from functools import partial

import pandas as pd
import pyarrow as pa
import pytest
import torch

import recmtl
from recmtl.data import prepare
from recmtl.data.columns.timestamps import as_times, missing_times
from recmtl.data.preparation.encode_rows import encode_rows
from recmtl.data.store.format import IDS, LIST_PREFIX
from recmtl.schema import (
    Binned,
    Categorical,
    MultiCategorical,
    Numeric,
    Schema,
    Task,
    Timestamp,
    load_fitted,
    save_fitted,
)
from recmtl.train import step

TIMES = ["2024-03-04T05:00:00", "2024-03-11T05:30:00"]  # Mondays of one month
CASES = {
    "category": (Categorical("x"), ["a", "a"], ["b", None]),
    "integers": (Categorical("x"), pa.array([7, 7]), pa.array([8, None])),
    "spellings": (Categorical("x"), ["1", "1.0"], ["b", None]),
    "missing": (Categorical("x"), pa.nulls(2, pa.string()), ["b", "a"]),
    "missing integers": (Categorical("x"), pa.nulls(2, pa.int64()), pa.array([8, 9])),
    "unknown": (Categorical("x", min_count=2), ["a", "b"], ["a", None]),
    "one bucket": (Categorical("x", hash_buckets=1), ["a", "b"], ["c", None]),
    "history": (MultiCategorical("x"), ["a|b", "a|b"], ["b|c", None]),
    "no history": (MultiCategorical("x"), ["", None], ["b|c", "a"]),
    "lists": (MultiCategorical("x"), [["a"], ["a"]], [["a", "b"], []]),
    "parts": (Timestamp("x", parts=("weekday", "hour", "month")), TIMES, ["2025-01-01T00:00:00", None]),
}
VARYING = {
    "category": (Categorical("x"), ["a", "b"]),
    "or missing": (Categorical("x"), ["a", None]),
    "integers": (Categorical("x"), pa.array([7, 8])),
    "integers or missing": (Categorical("x"), pa.array([None, 7])),
    "rare or missing": (Categorical("x", min_count=2), ["a", None]),
    "rare or not": (Categorical("x", min_count=2), ["a", "b", "b"]),
    "length": (MultiCategorical("x"), ["a|b", "a"]),
    "element": (MultiCategorical("x"), ["a|b", "a|c"]),
    "parts": (Timestamp("x", parts=("day", "hour")), ["2024-03-04T05:00:00", "2024-03-11T06:30:00"]),
}


def table(values):
    return pa.table({"x": values, "y": [i % 2 for i in range(len(values))]})


@pytest.mark.parametrize("case", CASES)
def test_a_feature_that_is_the_same_in_every_training_row_is_constant(case, tmp_path):
    feature, train, later = CASES[case]
    data = prepare(Schema([feature], [Task("t", "y")]), table(train), test=table(later), holdout=0)
    column = LIST_PREFIX + "x" if isinstance(feature, MultiCategorical) else IDS
    first, *others = data.train.table[column].to_pylist()
    assert all(row == first for row in [*others, *data.test.table[column].to_pylist()])
    assert any("is the same in every training row, and is read as that: in" in note for note in data.notes)
    save_fitted(data.schema, tmp_path)
    assert load_fitted(tmp_path).constants == data.schema.constants


@pytest.mark.parametrize("case", VARYING)
@pytest.mark.parametrize("split", [False, True])
def test_a_feature_that_differs_between_training_rows_is_not(case, split, tmp_path):
    feature, train = VARYING[case]
    rows = table(train)
    parts = [rows.slice(i, 1) for i in range(len(rows))] if split else rows  # each a batch of its own
    data = prepare(Schema([feature], [Task("t", "y")]), parts, holdout=0)
    assert data.schema.constants == {}


def test_each_part_of_a_timestamp_is_constant_by_itself():
    schema = Schema([Timestamp("x", parts=("day", "month"))], [Task("t", "y")])
    data = prepare(schema, table(TIMES), test=table(["2025-01-01T00:00:00", None]), holdout=0)
    assert data.schema.constants == {"x.month": (4,)}  # March
    assert data.test.table[IDS].to_pylist() == [[2, 4], [0, 4]]
    assert data.notes == (
        "column 'x' has a value in every training row, but none in 1 of 2 test rows: it is read as an unknown category "
        "there",
        "part 'x.month' of a timestamp is the same in every training row, and is read as that: in 2 of 2 test rows it "
        "differs",
    )


def test_a_feature_that_shares_a_vocabulary_is_constant_by_itself():
    schema = Schema([Categorical("item"), MultiCategorical("x", share_with="item")], [Task("t", "y")])
    train, later = ({"item": ["a", "b"], "x": x, "y": [0, 1]} for x in (["a", "a"], ["b", "a|b"]))
    data = prepare(schema, pa.table(train), test=pa.table(later), holdout=0)
    assert list(data.schema.constants) == ["x"]
    assert data.test.table[LIST_PREFIX + "x"].to_pylist() == [[2], [2]]


def test_other_numbers_than_the_only_one_of_a_binned_column_are_noted() -> None:
    train = pd.DataFrame({"x": [3.0] * 8, "z": range(8), "y": [0, 1] * 4})
    later = train.assign(x=[3.0] * 5 + [4.0, 5.0, None])
    schema = Schema([Binned("x"), Numeric("z")], [Task("t", "y")])
    notes = prepare(schema, train, test=later, holdout=0).notes
    assert "numeric column 'x' is constant in the training rows" in notes
    assert any(
        note.startswith("column 'x' is the same in every training row") and "3 of 8 test rows" in note for note in notes
    )


HOURS = Timestamp("x", parts=("hour", "month"))  # the month never varies
COMPLETE = {  # feature, training rows, later rows of which the last lacks it, its ids
    "category": (Categorical("x"), ["a", "b"], ["a", None], [0]),
    "integers": (Categorical("x"), pa.array([7, 8]), pa.array([7, None]), [0]),
    "buckets": (Categorical("x", hash_buckets=50), ["a", "b"], ["a", None], [0]),
    "lists": (MultiCategorical("x"), ["a|b", "c"], ["a", ""], [0]),
    "typed lists": (MultiCategorical("x"), [["a", "b"], ["c"]], [["a"], []], [0]),
    "times": (HOURS, ["2024-03-04T05:00:00", "2024-03-04T06:00:00"], ["2024-03-04T05:00:00", None], [0, 4]),
    "bins": (Binned("x", bins=2), [1.0, 2.0], [1.0, None], [0]),
}


@pytest.mark.parametrize("case", COMPLETE)
def test_missing_is_read_as_unknown_where_no_training_row_lacks_the_feature(case, tmp_path):
    feature, train, later, unknown = COMPLETE[case]
    schema = Schema([feature], [Task("t", "y")])
    data = prepare(schema, table(train), test=table(later), holdout=0)
    column = LIST_PREFIX + "x" if isinstance(feature, MultiCategorical) else IDS
    kept, read = data.test.table[column].to_pylist()
    assert read == unknown
    assert kept[0] >= 2
    note = (
        "column 'x' has a value in every training row, but none in 1 of 2 {} rows: it is read as an unknown category "
        "there"
    )
    assert note.format("test") in data.notes
    save_fitted(data.schema, tmp_path)
    found: list[str] = []
    (rows,) = encode_rows(load_fitted(tmp_path), table(later), note=found.append)
    assert rows.table[column].to_pylist() == [kept, read]
    assert note.format("given") in found
    both = pa.concat_tables([table(train), table(later)], promote_options="permissive")
    lacked = prepare(schema, both, test=table(later), holdout=0)  # a training row lacks it
    assert lacked.test.table[column].to_pylist()[1][0] == 1
    assert not [note for note in lacked.notes if "has a value in every training row" in note]
    assert lacked.schema.missing == {"x": 0.25}


def test_a_feature_that_shares_a_vocabulary_is_complete_by_itself():
    schema = Schema([Categorical("item"), MultiCategorical("x", share_with="item")], [Task("t", "y")])
    train, later = ({"item": item, "x": ["a", "a|b"], "y": [0, 1]} for item in (["a", None], [None, None]))
    later["x"] = ["", None]
    data = prepare(schema, pa.table(train), test=pa.table(later), holdout=0)
    assert [data.test.table[name].to_pylist() for name in (IDS, LIST_PREFIX + "x")] == [[[1]] * 2, [[0]] * 2]
    assert data.schema.missing == {"item": 0.5, "x": 0.0}


@pytest.mark.parametrize("way", ["decay", "rows", "pretrained"])
def test_missing_values_that_no_training_row_has_are_encoded_as_zeros(way, tmp_path, monkeypatch):
    """Whatever the rows of the embedding table are drawn as: only those of training rows are read."""
    hours = ["2024-03-04T05:00:00", "2024-03-04T06:00:00"]
    columns = {"c": ["a", "b"], "h": ["a", "b"], "l": ["a|b", "c"], "t": hours, "b": [1.0, 2.0]}
    features = [
        Categorical("c"),
        Categorical("h", hash_buckets=50),
        MultiCategorical("l"),
        Timestamp("t", ("hour",)),
        Binned("b"),
    ]
    train = pa.table({**{name: values * 20 for name, values in columns.items()}, "y": [0, 1, 1, 0] * 10})
    nothing = pa.table({name: pa.nulls(1, train.schema.field(name).type) for name in columns})
    data = prepare(Schema(features, [Task("t", "y")]), train, holdout=0)
    (tmp_path / "v.csv").write_text("c,v,w\na,1,2\nb,3,4\n")
    pretrained = {"c": tmp_path / "v.csv"} if way == "pretrained" else None
    monkeypatch.setattr(step, "ROW_MODE", 1 if way == "rows" else 1 << 20)
    encoder = partial(recmtl.FeatureEncoder, width=2, pretrained=pretrained)
    model = recmtl.SharedBottom(data.schema, [4], encoder=encoder)
    with torch.no_grad():
        for block in data.schema.id_blocks:
            model.encoder.tables[0].rows_of(block)[1:] += 5
    adam = partial(torch.optim.AdamW, weight_decay=0.1)
    recmtl.Trainer(model, epochs=1, optimization=recmtl.Optimization(optimizer=adam, batch_size=10)).fit(data.train)
    (rows,) = encode_rows(data.schema, nothing, labelled=False, note=lambda note: None)
    with torch.no_grad():
        assert model.encoder(next(recmtl.Loader(rows, 1).epoch())).tolist() == [[0.0] * 10]
        assert model.encoder(next(recmtl.Loader(data.train, 1).epoch())).all()


@pytest.mark.parametrize(
    ("feature", "column", "missing"),
    [
        (HOURS, pa.array(["2024-03-04", None, "2024-03-04"]), 1),
        (HOURS, pa.array([None, 5], pa.timestamp("s")), 1),
        (HOURS, pa.array([None, 5], pa.timestamp("s")).dictionary_encode(), 1),
        (HOURS, pa.array([None, 5], pa.date32()), 1),
        (HOURS, pa.nulls(2, pa.string()), 2),
        (Timestamp("x", format="seconds"), pa.array([0, -1, None, 1_700_000_000]), 3),
        (Timestamp("x", format="seconds"), pa.array(["0", "nan", "1700000000"]), 2),
        (Timestamp("x", format="%Y%m%d"), pa.array(["0", "20240304"]), 1),
    ],
)
def test_times_are_missing_where_their_parsing_finds_none(feature, column, missing):
    assert missing_times(column, feature) == as_times(column, feature).null_count == missing
