"""A word for a missing value that is a number stands for it in every kind of file, however it is written."""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

import recmtl
from recmtl.data.sources.open import open_sources
from recmtl.evaluate.prediction_files import read_predictions
from recmtl.io.formats import replace_nulls
from recmtl.io.spellings import NullWords

SCHEMA = recmtl.Schema(
    [recmtl.Numeric("age"), recmtl.Binned("price"), recmtl.Categorical("item"), recmtl.MultiCategorical("tags")],
    [recmtl.Task("click", "click")],
    nulls=["NA", "-999", "0.5"],
)
ROWS = 400


def columns(missing_age: Any, missing_price: Any, missing_item: Any) -> dict[str, list[Any]]:
    """Columns of which each third value is missing."""
    every = range(ROWS)
    return {
        "age": [missing_age if i % 3 == 0 else float(18 + i % 50) for i in every],
        "price": [missing_price if i % 3 == 0 else float(i) for i in every],
        "item": [missing_item if i % 3 == 0 else 7 + i % 5 for i in every],
        "tags": [[-999, i % 4] if i % 3 == 0 else [i % 4] for i in every],
        "click": [i % 2 for i in every],
    }


def fingerprint(data: Any, **options: Any) -> str:
    return recmtl.prepare(SCHEMA, data, holdout=0.2, **options).fingerprint


@pytest.fixture(scope="module")
def expected() -> str:
    """The prepared rows of a table in which missing values are missing."""
    rows = columns(None, None, None) | {"tags": [[i % 4] for i in range(ROWS)]}
    return fingerprint(pa.table(rows))


def csv_file(path: Path, words: tuple[str, str, str], quoted: bool, bad_row: bool) -> Path:
    frame = pd.DataFrame(columns(*words))
    frame["tags"] = ["|".join(map(str, tags)) for tags in frame["tags"]]
    lines = frame.to_csv(index=False, quoting=int(quoted)).splitlines(keepends=True)
    if bad_row:
        lines.insert(200, "nothing,1,1,1,1\n")  # all values are then converted from bytes
    path.write_text("".join(lines))
    return path


@pytest.mark.parametrize(
    "words",
    [
        ("-999", "0.5", "-999"),
        ("-999.0", "0.50", "-999.0"),
        ("-999.000", "0.5000", "-999.00"),
        (" -999", "0.5 ", "-999"),
        ("-9.990000000000000000e+02", "+5E-1", "-999"),
        ("-0999.", ".5", "-999."),
    ],
)
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("bad_row", [False, True])
def test_in_csv_files(words: tuple[str, str, str], quoted: bool, bad_row: bool, expected: str, tmp_path: Path) -> None:
    missing = csv_file(tmp_path / "missing.csv", ("NA", "NA", "NA"), quoted, bad_row)
    given = csv_file(tmp_path / "given.csv", words, quoted, bad_row)
    found = fingerprint(given, bad_rows="skip" if bad_row else "error")
    assert found == (fingerprint(missing, bad_rows="skip") if bad_row else expected)


@pytest.mark.parametrize(
    "kind", [pa.int16(), pa.int64(), pa.float16(), pa.float32(), pa.decimal128(30, 2), pa.string()]
)
@pytest.mark.parametrize("form", ["parquet", "feather", "table", "frame"])
def test_in_tables_of_any_type(kind: pa.DataType, form: str, expected: str, tmp_path: Path) -> None:
    given = columns(-999, Decimal("0.5"), -999)
    price = pa.array([float(value) for value in given.pop("price")])
    own = {name: pa.array(given[name]).cast(kind) for name in ("age", "item")}
    table = pa.table(given | own | {"price": price.cast(price.type if pa.types.is_integer(kind) else kind)})
    file, data = tmp_path / f"rows.{form}", None
    if form == "parquet":
        pq.write_table(table, file)
    elif form == "feather":
        feather.write_feather(table, file)
    else:
        data = table if form == "table" else table.to_pandas()
    assert fingerprint(file if data is None else data) == expected


@pytest.mark.parametrize("words", [(" -999", "+.5"), ("-9.99e+02", "5e-1"), ("-0999", "00.50 ")])
def test_in_columns_of_text_that_are_read_as_numbers(words: tuple[str, str], expected: str) -> None:
    given = columns(*words, -999)
    given |= {name: [str(value) for value in given[name]] for name in ("age", "price")}
    assert fingerprint(pa.table(given)) == expected


@pytest.mark.parametrize("nulls", [["-999", "0.5"], ["-999,0", "0,5"]])
@pytest.mark.parametrize("bad_rows", ["error", "skip"])
def test_with_a_decimal_comma(nulls: list[str], bad_rows: Any, tmp_path: Path) -> None:
    found = []
    for words in (("-999,0", "0,50", "-999,0"), ("", "", "")):
        frame = pd.DataFrame(columns(*words)).drop(columns="tags").map(lambda value: str(value).replace(".", ","))
        frame.to_csv(tmp_path / "rows.csv", sep=";", index=False)
        schema = recmtl.Schema(SCHEMA.features[:3], SCHEMA.tasks, nulls=["", *nulls], decimal=",", separator=";")
        found.append(recmtl.prepare(schema, tmp_path / "rows.csv", holdout=0.2, bad_rows=bad_rows).fingerprint)
    assert found[0] == found[1]


def test_a_list_of_two_numbers_is_no_number() -> None:
    schema = recmtl.Schema(
        [recmtl.MultiCategorical("tags", separator=",")], [recmtl.Task("click", "click")], nulls=["1"]
    )
    rows = pd.DataFrame({"tags": ["1,0", "0", "0,00", "1"] * 100, "click": [0, 1, 1, 0] * 100})
    without = rows.assign(tags=["0", "0", "0,00", ""] * 100)
    assert recmtl.prepare(schema, rows).fingerprint == recmtl.prepare(schema, without).fingerprint


def test_in_the_names_of_folders(tmp_path: Path) -> None:
    for key in ("-999.0", "NA", "7", "8"):
        (tmp_path / f"item={key}").mkdir()
        pd.DataFrame({"click": [0, 1] * 50}).to_csv(tmp_path / f"item={key}" / "rows.csv", index=False)
    schema = recmtl.Schema([recmtl.Categorical("item")], SCHEMA.tasks, nulls=["NA", "-999"])
    (row,) = recmtl.describe(tmp_path, schema).columns.to_dict("records")
    assert (row["missing"], row["distinct"]) == (0.5, 2)


def test_in_rows_of_a_source_that_knows_no_card() -> None:
    (source,) = open_sources(pa.table({"age": [-999, 5, 7], "item": ["a", "-999.0", "b"]}))
    (read,) = open_sources(source, text=SCHEMA.text_format)
    (batch,) = read.batches(["age", "item"], frozenset(["age"]))
    assert batch.to_pydict() == {"age": [None, 5, 7], "item": ["a", None, "b"]}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predictions_are_what_they_are(suffix: str, tmp_path: Path) -> None:
    schema = recmtl.Schema([recmtl.Numeric("age")], [recmtl.Task("ctr", "click")], nulls=["1", "-999"], keys=["item"])
    frame = pd.DataFrame({"ctr": [1.0, 0.5, 0.0], "click": [0.0, 0.0, -999.0], "item": [-999, 3, 4]})
    frame.to_csv(tmp_path / "p.csv", index=False) if suffix == "csv" else frame.to_parquet(tmp_path / "p.parquet")
    found = read_predictions(schema, tmp_path / f"p.{suffix}").to_pydict()
    assert found == {"ctr": [1.0, 0.5, 0.0], "click": [0.0, 0.0, None], "item": [None, 3, 4]}


def test_labels_of_one_value_are_explained() -> None:
    rows = pd.DataFrame({"age": range(100), "click": [-1, 1] * 50})
    schema = recmtl.Schema([recmtl.Numeric("age")], SCHEMA.tasks, nulls=["-1"])
    note = "task 'click' has one class in the training rows: every label is 1, and -1 stands for a missing one"
    assert note in recmtl.prepare(schema, rows).notes


def test_keys_that_are_missing_are_the_same_rows_whatever_was_in_their_place() -> None:
    schema = recmtl.Schema([recmtl.Numeric("age")], SCHEMA.tasks, group="item", nulls=["-999"])
    rows = [
        pa.table({"age": range(ROWS), "click": [0, 1] * (ROWS // 2), "item": [missing, 7, 8, 9] * (ROWS // 4)})
        for missing in (-999, None, -999.0)
    ]
    assert len({recmtl.prepare(schema, table).fingerprint for table in rows}) == 1


def test_types_hold_numbers_as_they_round_them() -> None:
    nulls = NullWords(["0", "0.1", "99999", "1" * 40])
    for kind, largest in ((pa.float16(), 65504.0), (pa.float32(), 1e30), (pa.float64(), 1e300)):
        values = pa.array([0.0, -0.0, 0.1, largest, math.inf]).cast(kind, safe=False)
        assert replace_nulls(values, nulls).is_null().to_pylist() == [True, True, True, False, False]
    decimals = pa.array([Decimal("0.100000"), Decimal("0.100001"), Decimal(0)], pa.decimal128(30, 6))
    assert replace_nulls(decimals, nulls).is_null().to_pylist() == [True, False, True]


def test_integers_are_compared_exactly() -> None:
    nulls = NullWords([str(2**53 + 1), "300"])
    assert replace_nulls(pa.array([2**53, 2**53 + 1, 2**53 + 2]), nulls).to_pylist() == [2**53, None, 2**53 + 2]
    assert replace_nulls(pa.array([44, 45], pa.uint8()), nulls).to_pylist() == [44, 45]


@pytest.mark.parametrize("word", ["-999x", "007", "1e3", "nan", "+5", "5.", ".5", "inf", "٣", "-0", "0,5", "1" * 310])
def test_other_words_are_no_numbers(word: str) -> None:
    assert not NullWords([word]).numbers
    assert word in NullWords([word])
