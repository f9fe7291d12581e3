"""Files of thousands of columns: no work grows with the square of their number."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

from recmtl.data import describe, prepare
from recmtl.data.profiling import prepared as prepared_tallies
from recmtl.data.sources import csv as csv_source
from recmtl.data.sources.open import _check_columns, open_sources
from recmtl.schema import Categorical, Numeric, Schema, Task


class Name(str):
    """A column name that counts its comparisons with other names."""

    comparisons: ClassVar[int] = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.comparisons += 1
        return str(self) == str(other)


def wide(columns: int, rows: int = 40) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    found = {f"c{i}": rng.integers(10, 99, rows) for i in range(columns)}
    return pd.DataFrame(found | {"click": np.arange(rows) % 2})


def schema_of(columns: int) -> Schema:
    features = [Categorical(Name(f"c{i}")) if i % 2 else Numeric(Name(f"c{i}")) for i in range(columns)]
    return Schema(features, [Task("click", "click")])


def calls(work: Callable[[], object]) -> int:
    """Count the calls of Python functions, steps of generators among them."""
    count = 0

    def add(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(add)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def comparisons(work: Callable[[], object]) -> int:
    """Count the comparisons of names."""
    before = Name.comparisons
    work()
    return Name.comparisons - before


@pytest.mark.parametrize("counted", [calls, comparisons])
def test_a_schema_finds_its_columns_without_searching_lists(counted: Callable[[Callable[[], object]], int]) -> None:
    def work(columns: int) -> Callable[[], object]:
        schema, names = schema_of(columns), [Name(f"c{i}") for i in range(columns)] + [Name("click")]
        categories = [f for f in schema.features if isinstance(f, Categorical)]
        return lambda: (schema.resolve(names), [schema.owner(f) for f in categories])

    assert counted(work(400)) < 5 * counted(work(100)) + 100


def test_columns_are_counted_in_one_pass() -> None:
    class Given:
        columns = tuple(Name(f"c{i}") for i in range(200))

    given: Any = Given()
    assert comparisons(lambda: _check_columns(given)) <= 400


def test_a_wide_file_has_batches_of_as_many_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_source, "PART_BYTES", 100)
    monkeypatch.setattr(csv_source, "WIDE", 4)
    found = {}
    for columns in (7, 31, 127):  # and a label
        path = tmp_path / f"{columns}.csv"
        wide(columns).to_csv(path, index=False)
        (source,) = open_sources(str(path), "rows")
        tables = [batch.to_pandas() for batch in source.batches(source.columns, frozenset())]
        assert pd.concat(tables, ignore_index=True).astype("int64").equals(wide(columns))
        found[columns] = len(tables)
    assert max(found.values()) < 1.5 * min(found.values())


def test_encoded_rows_are_laid_out_once_per_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = {}
    real = prepared_tallies.to_matrix
    for columns in (10, 40):
        path = tmp_path / f"{columns}.csv"
        wide(columns).to_csv(path, index=False)
        data = prepare(schema_of(columns), str(path), out=tmp_path / f"prepared{columns}")
        laid_out: list[object] = []
        monkeypatch.setattr(prepared_tallies, "to_matrix", lambda c, to=laid_out: to.append(c) or real(c))
        assert len(describe(data).columns) == columns
        count[columns] = len(laid_out)
    assert count[10] == count[40]
