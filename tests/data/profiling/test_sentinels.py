"""Numbers that stand for missing values are named by `describe`; numbers that do not are left alone."""

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.data.profiling.sentinels import sentinels

RNG = np.random.default_rng(0)
AGES = RNG.integers(18, 90, 1000).astype(float)
AMOUNTS = RNG.exponential(30, 1000)


def with_some(values: np.ndarray, number: float, rows: int = 50) -> np.ndarray:
    return np.where(np.arange(len(values)) < rows, number, values)


@pytest.mark.parametrize(
    ("values", "number"),
    [
        (with_some(AGES, -999), -999),
        (with_some(AGES, 9999), 9999),
        (with_some(AGES + 1900, 0), 0),
        (with_some(AMOUNTS, -1), -1),
    ],
)
def test_a_number_unlike_all_others_is_found(values: np.ndarray, number: float) -> None:
    others = values[values != number]
    assert list(sentinels(values)) == [(number, 0.05, others.min(), others.max())]


@pytest.mark.parametrize(
    "values",
    [
        AGES,
        AMOUNTS,
        with_some(AMOUNTS, 0, 600),  # most amounts are zero
        with_some(AGES, -999, 9),  # few rows
        with_some(AGES, 9999.5),
        with_some(RNG.normal(size=1000), -1),
        np.arange(1000.0) % 5 - 1,  # of a scale from -1 to 3
        np.arange(1000.0) % 2 * 100,
        np.array([]),
    ],
)
def test_other_numbers_are_left_alone(values: np.ndarray) -> None:
    assert not list(sentinels(values))


def test_describe_says_how_they_are_read_as_missing() -> None:
    rows = pd.DataFrame({"click": np.arange(1000) % 2, "age": with_some(AGES, -999), "year": with_some(AGES + 1900, 0)})
    sentences = [
        "column 'age': 5.0% of the numbers are -999, unlike all others (18 to 89): if it stands for a missing value, "
        "`--null -999` reads it so in every column",
        "column 'year': 5.0% of the numbers are 0, unlike all others (1918 to 1989): if it stands for a missing value, "
        "leave it empty",
    ]
    assert list(recmtl.describe(rows, labels=["click"]).warnings) == sentences
    schema = recmtl.Schema(
        [recmtl.Numeric("age"), recmtl.Numeric("year")], [recmtl.Task("click", "click")], nulls=["-999"]
    )
    found = recmtl.describe(rows, schema)
    assert list(found.warnings) == sentences[1:]
    assert found.columns.set_index("column")["missing"].to_dict() == {"age": 0.05, "year": 0.0}
