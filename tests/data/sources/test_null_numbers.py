"""A word for a missing value that is a number stands for it in every kind of file, however it is written."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

import recmtl
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
    "words", [("-999", "0.5", "-999"), ("-999.0", "0.50", "-999.0"), ("-999.000", "0.5000", "-999.00")]
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


def test_integers_are_compared_exactly() -> None:
    nulls = NullWords([str(2**53 + 1), "300"])
    assert replace_nulls(pa.array([2**53, 2**53 + 1, 2**53 + 2]), nulls).to_pylist() == [2**53, None, 2**53 + 2]
    assert replace_nulls(pa.array([44, 45], pa.uint8()), nulls).to_pylist() == [44, 45]


@pytest.mark.parametrize("word", ["-999x", "007", "1e3", "nan", "+5", "5.", ".5", "inf", "٣"])
def test_other_words_are_no_numbers(word: str) -> None:
    assert not NullWords([word]).numbers
    assert word in NullWords([word])
