"""AUC by the values of a feature."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from recmtl.evaluate import Predictions, auc_interval
from recmtl.evaluate.slices import FeatureValues, range_names, slice_table
from recmtl.schema import Categorical, Schema, Task

SCHEMA = Schema([Categorical("x")], [Task("ctr", "click"), Task("stay", "stay", kind="regression")], group="g")


def predictions(rows: int = 400) -> Predictions:
    rng = np.random.default_rng(0)
    click = (rng.random(rows) < 0.4).astype(float)
    click[5] = np.nan
    values = {"ctr": rng.random(rows), "stay": rng.random(rows)}
    keys = pa.table({"g": np.arange(rows) // 2})
    return Predictions(SCHEMA, values, {"click": click, "stay": rng.random(rows)}, rng.uniform(1, 2, rows), keys)


def test_each_slice_is_measured_on_its_own_rows() -> None:
    given, codes = predictions(), np.arange(400) % 3 - 1
    table = slice_table(given, FeatureValues.of(["a", "b"], codes)).set_index("value")
    assert set(table["task"]) == {"ctr"}
    assert set(table.index) == {"(missing)", "a", "b"}
    for value, code in {"(missing)": -1, "a": 0, "b": 1}.items():
        rows = (codes == code) & ~np.isnan(given.labels["click"])
        y, p, w = given.labels["click"][rows], given.values["ctr"][rows], given.weight[rows]
        assert table.loc[value, "auc"] == pytest.approx(roc_auc_score(y, p, sample_weight=w))
        assert tuple(table.loc[value, ["rows", "positives"]]) == (rows.sum(), y.sum())
        interval = auc_interval(given.select(codes == code).scores()["ctr"])
        assert (table.loc[value, "low"], table.loc[value, "high"]) == (interval.low, interval.high)
    assert table["auc"].is_monotonic_increasing


def test_rare_values_share_a_slice() -> None:
    codes = np.repeat(np.arange(40), 10)
    codes[:30] = 0  # the most frequent one: 30 + rows of code 0
    table = slice_table(predictions(), FeatureValues.of([f"v{i}" for i in range(40)], codes), most=5)
    assert len(table) == 5
    assert {"v0", "(34 others)"} <= set(table["value"])
    assert table["rows"].sum() == 399


def test_a_slice_with_one_class_is_last_and_undefined() -> None:
    given = predictions()
    codes = np.where(given.labels["click"] == 1, 0, np.arange(400) % 2)
    table = slice_table(given, FeatureValues.of(["both", "negatives"], codes))
    assert table["value"].tolist() == ["both", "negatives"]
    assert np.isnan(table["auc"][1])


def test_slices_with_few_positives_are_last() -> None:
    given = predictions()
    click = given.labels["click"]
    few = np.flatnonzero(click == 1)[:9]  # nine positives, and one negative less than enough below
    codes = np.zeros(400, int)
    codes[few] = 1
    codes[np.flatnonzero(click == 0)[:30]] = 1
    codes[np.flatnonzero(click == 1)[9:30]] = 2
    codes[np.flatnonzero(click == 0)[30:39]] = 2
    table = slice_table(given, FeatureValues.of(["most", "positives", "negatives"], codes))
    assert table["value"].tolist()[0] == "most"
    assert table.set_index("value")["few"].to_dict() == {"most": False, "positives": True, "negatives": True}


def test_many_numbers_are_binned_by_quantiles() -> None:
    numbers = np.arange(100.0)
    numbers[-1] = np.nan
    parts = dict(FeatureValues.of_numbers(numbers).parts())
    assert {name: int(mask.sum()) for name, mask in parts.items()} == {
        "up to 19": 20,
        "19 to 39": 20,
        "39 to 59": 20,
        "59 to 79": 20,
        "above 79": 19,
        "(missing)": 1,
    }
    few = dict(FeatureValues.of_numbers(np.array([3.0, 1.0, np.nan, 3.0])).parts())
    assert {name: mask.tolist() for name, mask in few.items()} == {
        "3": [True, False, False, True],
        "1": [False, True, False, False],
        "(missing)": [False, False, True, False],
    }


def test_a_row_counts_for_each_of_its_values() -> None:
    values = FeatureValues(["a", "b"], np.array([0, 1, 1]), np.array([0, 0, 2]), 3)
    assert {name: mask.tolist() for name, mask in values.parts()} == {
        "b": [True, False, True],
        "a": [True, False, False],
    }


def test_ranges() -> None:
    assert range_names(np.array([1.0, 2.5])) == ["up to 1", "1 to 2.5", "above 2.5"]
    assert range_names(np.array([])) == ["all"]


def test_no_binary_task_gives_an_empty_table() -> None:
    schema = Schema([Categorical("x")], [Task("stay", "stay", kind="regression")])
    one = np.ones(2)
    given = Predictions(schema, {"stay": one}, {"stay": one}, None, pa.table({"k": [1, 2]}))
    table = slice_table(given, FeatureValues.of(["a"], np.zeros(2, int)))
    assert isinstance(table, pd.DataFrame)
    assert table.empty


@pytest.mark.parametrize("distinct", [5, 1000])
@pytest.mark.parametrize("start", [1_600_000_000.0, 1234567.0, 0.25])
def test_distinct_numbers_have_distinct_names(start: float, distinct: int) -> None:
    numbers = start + np.arange(1000) % distinct * start * 1e-9
    names = [name for name, _ in FeatureValues.of_numbers(numbers).parts()]
    assert len(names) == len(set(names)) == 5


def test_a_value_named_like_missing_is_its_own_slice() -> None:
    codes = np.array([0, 0, 0, 1, -1, -1])
    found = {name: mask.tolist() for name, mask in FeatureValues.of(["(missing)", "a"], codes).parts()}
    assert found == {
        "(missing)": (codes == 0).tolist(),
        "(missing) (2)": (codes == -1).tolist(),
        "a": (codes == 1).tolist(),
    }
