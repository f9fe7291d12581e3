"""Columns of which every training row has the same ids are read as that in all rows."""

import pandas as pd
import pyarrow as pa
import pytest

from recmtl.data import prepare
from recmtl.data.store.format import IDS
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
    first, *others = data.train.table[IDS].to_pylist()
    assert all(row == first for row in [*others, *data.test.table[IDS].to_pylist()])
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
    assert data.test.table[IDS].to_pylist() == [[2, 4], [1, 4]]
    assert data.notes == (
        "part 'x.month' of a timestamp is the same in every training row, and is read as that: in 2 of 2 test rows it "
        "differs",
    )


def test_a_feature_that_shares_a_vocabulary_is_constant_by_itself():
    schema = Schema([Categorical("item"), MultiCategorical("x", share_with="item")], [Task("t", "y")])
    train, later = ({"item": ["a", "b"], "x": x, "y": [0, 1]} for x in (["a", "a"], ["b", "a|b"]))
    data = prepare(schema, pa.table(train), test=pa.table(later), holdout=0)
    assert list(data.schema.constants) == ["x"]
    assert [row[1:] for row in data.test.table[IDS].to_pylist()] == [[2], [2]]


def test_other_numbers_than_the_only_one_of_a_binned_column_are_noted() -> None:
    train = pd.DataFrame({"x": [3.0] * 8, "z": range(8), "y": [0, 1] * 4})
    later = train.assign(x=[3.0] * 5 + [4.0, 5.0, None])
    schema = Schema([Binned("x"), Numeric("z")], [Task("t", "y")])
    notes = prepare(schema, train, test=later, holdout=0).notes
    assert "numeric column 'x' is constant in the training rows" in notes
    assert any(
        note.startswith("column 'x' is the same in every training row") and "3 of 8 test rows" in note for note in notes
    )
