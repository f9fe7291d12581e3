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
        "`--null -999` (on a card `nulls: ['-999']`) reads it so in every column; say each other word for a missing "
        "value as well",
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


def test_describe_names_words_that_work() -> None:
    rows = pd.DataFrame({"click": np.arange(1000) % 2, "age": with_some(AGES, -9999999999999999)})
    assert "`--null -10000000000000000` (" in next(iter(recmtl.describe(rows, labels=["click"]).warnings))
    found = recmtl.describe(rows, labels=["click"], nulls=["-10000000000000000"])
    assert (found.warnings, found.numbers["lowest"].tolist()) == ((), [AGES[50:].min()])


@pytest.mark.parametrize("number", [-3, 2.0**70])
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_describe_advises_no_word_that_a_label_holds_or_that_is_no_integer(kind: str, number: float) -> None:
    rows = pd.DataFrame({"rating": np.arange(1000) % 4 - 3, "age": with_some(AGES / 100, number)})
    warnings = recmtl.describe(rows, labels=["rating"], kinds={"rating": kind}).warnings
    (warning,) = (w for w in warnings if "unlike all others" in w)
    assert warning.endswith("if it stands for a missing value, leave it empty")
