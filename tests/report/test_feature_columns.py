"""Prepared rows are read back as what they were."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import recmtl
from recmtl.evaluate import Predictions
from recmtl.evaluate.slices import FeatureValues
from recmtl.report.feature_columns import check_predicted_rows, prepared_values
from recmtl.schema import Binned, Categorical, MultiCategorical, Numeric, Schema, SchemaError, Task, Timestamp

FRAME = pd.DataFrame(
    {
        "city": ["x", "y", None, "x", "z", "x"],
        "shared": ["y", "x", "x", "x", "y", None],
        "tags": ["a|b", "a", None, "c|a", "b", "c"],
        "price": [1.5, -2.0, 0.0, 1.5, np.nan, 1.5],
        "size": [1.0, 2.0, 3.0, 4.0, 5.0, np.nan],
        "time": ["2024-01-01 05:00", "2024-02-06 06:00", None, "2024-12-31", "2024-01-01", "2024-01-01"],
        "id": ["p", "q", "p", "q", "p", "q"],
        "click": [0, 1, 0, 1, 0, 1],
    }
)


def prepared(**options: object) -> recmtl.Rows:
    schema = Schema(
        [
            Categorical("city"),
            Categorical("shared", share_with="city"),
            MultiCategorical("tags"),
            Numeric("price", **options),
            Binned("size", bins=2),
            Timestamp("time", parts=("hour", "weekday", "month")),
            Categorical("id", hash_buckets=50),
        ],
        [Task("ctr", "click")],
    )
    return recmtl.prepare(schema, FRAME, valid=FRAME).train


def by_row(values: FeatureValues) -> list[list[str]]:
    """The values of each row."""
    return [sorted(values.names[c] for c in values.codes[values.rows == row]) for row in range(values.length)]


def test_categories() -> None:
    rows = prepared()
    city = by_row(prepared_values(rows, "city"))
    assert city == [["x"], ["y"], ["(missing)"], ["x"], ["z"], ["x"]]
    assert by_row(prepared_values(rows, "shared")) == [["y"], ["x"], ["x"], ["x"], ["y"], ["(missing)"]]
    assert by_row(prepared_values(rows, "tags")) == [["a", "b"], ["a"], ["(missing)"], ["a", "c"], ["b"], ["c"]]
    buckets = by_row(prepared_values(rows, "id"))
    assert buckets[0] == buckets[2] != buckets[1]
    assert buckets[0][0].startswith("bucket ")


def test_parts_of_dates_and_bins() -> None:
    rows = prepared()
    assert [v[0] for v in by_row(prepared_values(rows, "time.hour"))] == ["5", "6", "(missing)", "0", "0", "0"]
    days = [v[0] for v in by_row(prepared_values(rows, "time.weekday"))]
    assert days == ["Monday", "Tuesday", "(missing)", "Tuesday", "Monday", "Monday"]
    assert [v[0] for v in by_row(prepared_values(rows, "time.month"))] == ["1", "2", "(missing)", "12", "1", "1"]
    bins = [v[0] for v in by_row(prepared_values(rows, "size"))]
    assert bins == ["up to 3"] * 3 + ["above 3"] * 2 + ["(missing)"]
    with pytest.raises(SchemaError, match=r"no feature 'time', expected one of city, .*time\.hour"):
        prepared_values(rows, "time")


@pytest.mark.parametrize("transform", ["knots", "standardize", "min_max", "log1p", "quantile", "none"])
@pytest.mark.parametrize("indicated", [False, True])
def test_numbers(transform: str, indicated: bool) -> None:
    """A missing number has its fill value, unless there is a missing indicator."""
    found = [v[0] for v in by_row(prepared_values(prepared(transform=transform, missing_indicator=indicated), "price"))]
    assert found[:4] + found[5:] == ["1.5", "-2", "0", "1.5", "1.5"]
    assert (found[4] == "(missing)") == indicated


def test_a_huge_number_leaves_the_small_ones_as_they_are() -> None:
    schema = Schema([Numeric("price")], [Task("ctr", "click")])
    prices = [1.25, 2.5, 3.75, 0.0, 1e9, 7.0]
    rows = recmtl.prepare(schema, pd.DataFrame({"price": prices, "click": [0, 1] * 3}), holdout=0).train
    assert [float(v[0]) for v in by_row(prepared_values(rows, "price"))] == prices


def test_a_category_unseen_in_training() -> None:
    schema = Schema([Categorical("city")], [Task("ctr", "click")])
    test = FRAME.assign(city="new")
    rows = recmtl.prepare(schema, FRAME, valid=FRAME, test=test).test
    assert by_row(prepared_values(rows, "city")) == [["(unknown)"]] * 6


def test_rows_are_checked_by_their_labels() -> None:
    schema = Schema([Categorical("city")], [Task("ctr", "click")])
    labels = {"click": np.array([0.0, 1.0, np.nan])}
    predictions = Predictions(schema, {"ctr": np.zeros(3)}, labels, None, pa.table({}))
    check_predicted_rows({"click": labels["click"].copy()}, 3, predictions, "here")
    with pytest.raises(recmtl.DataError, match="here, row 3, column 'click': 1, but the predicted row has nan"):
        check_predicted_rows({"click": np.array([0.0, 1.0, 1.0])}, 3, predictions, "here")
