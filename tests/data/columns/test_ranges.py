"""Numbers outside of the range of the training rows are noted."""

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.data.preparation.encode_rows import encode_rows

ROWS = 400
TASKS = [recmtl.Task("ctr", "click")]
FEATURES = [recmtl.Numeric("x"), recmtl.Numeric("x", transform="standardize"), recmtl.Binned("x")]
each_feature = pytest.mark.parametrize("feature", FEATURES, ids=["knots", "standardize", "binned"])


def frame(seed: int, rows: int = ROWS) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame({"x": random.uniform(-1, 1, rows), "click": np.arange(rows) % 2})


def notes(feature: object, test: pd.DataFrame, train: pd.DataFrame | None = None) -> list[str]:
    train = frame(0) if train is None else train
    data = recmtl.prepare(recmtl.Schema([feature], TASKS), train, test=test, holdout=0)
    found: list[str] = []
    list(encode_rows(data.schema, test, note=found.append))
    prepared = [note for note in data.notes if "outside" in note]
    assert [note.replace("given", "test") for note in found if "outside" in note] == prepared
    return prepared


@each_feature
def test_numbers_in_another_unit_are_noted_with_their_share(feature: object) -> None:
    test = frame(1)
    test.loc[:99, "x"] = 1000 + test["x"][:100]
    test.loc[300:, "x"] = np.nan
    (note,) = notes(feature, test)
    assert note.startswith("column 'x' is outside of the range of the training rows, -0.99")
    assert "of the test rows that have it" in note
    assert 33.3 <= float(note.split(" in ")[1].split("%")[0]) < 35


@each_feature
def test_a_few_numbers_outside_are_no_matter(feature: object) -> None:
    test = frame(0)
    test.loc[:19, "x"] = 1000 + test["x"][:20]  # 5 %
    assert notes(feature, test) == []
    test.loc[20, "x"] = 1000.0
    assert len(notes(feature, test)) == 1


def test_rows_of_a_user_with_a_value_of_its_own_are_not_noted_unless_they_are_most() -> None:
    test = frame(0)
    test.loc[:99, "x"] = 1.01
    assert notes(FEATURES[0], test) == []
    test.loc[:249, "x"] = 1.01
    assert len(notes(FEATURES[0], test)) == 1


@pytest.mark.parametrize("rows", [3, 10, 30, 100])
def test_rows_like_the_training_rows_are_not_noted(rows: int) -> None:
    assert [note for seed in range(20) for note in notes(FEATURES[0], frame(100 + seed), frame(seed, rows))] == []


def test_a_few_rows_that_are_all_outside_are_noted_when_they_are_predicted() -> None:
    assert len(notes(FEATURES[0], frame(1, 5).assign(x=1e7))) == 1
    assert notes(FEATURES[0], frame(1, 1).assign(x=1e7)) == []


def test_limits_and_constants_have_no_range_to_leave() -> None:
    clipped = recmtl.Numeric("x", clip=(-0.5, 0.5))
    assert notes(clipped, frame(1).assign(x=1e7)) == []
    assert notes(FEATURES[0], frame(1).assign(x=1e7), frame(0).assign(x=3.0)) == []


def test_the_description_has_the_share_of_numbers_outside_of_the_range() -> None:
    test = frame(0).assign(city="a")
    test.loc[:99, "x"] = -5.0
    test.loc[300:, "x"] = np.nan
    schema = recmtl.Schema([recmtl.Numeric("x"), recmtl.Categorical("city")], TASKS)
    drift = recmtl.describe(frame(0).assign(city="a"), schema, test=test).drift.set_index("column")
    assert drift.loc["x", "beyond"] == pytest.approx(100 / 300)
    assert np.isnan(drift.loc["city", "beyond"])
