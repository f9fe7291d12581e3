"""Lists that writers put into text, and text that only looks like one."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recmtl.data import prepare
from recmtl.errors import DataError
from recmtl.io.list_text import parse_list
from recmtl.schema import MultiCategorical, Schema, SchemaError

ELEMENTS = st.text(alphabet=st.characters(blacklist_categories=("Cs", "Cc")), max_size=6)


@given(st.lists(ELEMENTS, max_size=5))
def test_python_and_json_round_trip(elements: list[str]) -> None:
    for text in (str(elements), json.dumps(elements), json.dumps(elements, ensure_ascii=False)):
        assert parse_list(text) == elements


@given(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=60))
def test_numbers_round_trip(numbers: list[int]) -> None:
    assert parse_list(str(numbers)) == parse_list(str(np.array(numbers))) == [str(n) for n in numbers]


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("[Action, Drama]", ["Action", "Drama"]),  # DuckDB, Spark
        ("[New York]", ["New York"]),
        ("[Ocean's Eleven, Jaws]", ["Ocean's Eleven", "Jaws"]),
        ("{Action,\"Sci Fi\"}", ["Action", "Sci Fi"]),  # PostgreSQL
        ("{}", []),
        (" ['a' 'b'\n 'c'] ", ["a", "b", "c"]),  # NumPy
        ("['a' None 'b']", ["a", None, "b"]),
        ("[1. 2.5 nan]", ["1", "2.5", None]),
        ("('a',)", ["a"]),
        ("(1, 2)", ["1", "2"]),
        ("[null, 1, true]", [None, "1", "true"]),
        ("['a|b', 'c']", ["a|b", "c"]),
    ],
)  # fmt: skip
def test_writers(text: str, elements: list[str | None]) -> None:
    assert parse_list(text, "|") == elements


@pytest.mark.parametrize("text", ["(live)", "{1: 2}", '{"a": 1}', "[a|b]", "[a]|[b]", "['a", "a, b", "", "[a] b [c]"])
def test_other_text(text: str) -> None:
    assert parse_list(text, "|") is None


@pytest.mark.parametrize("text", ["[['a']]", "[1 2 ... 9]", "['a' ... 'b']", '[{"a": 1}]'])
def test_lists_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ValueError, match=r"a list of single values|a whole list"):
        parse_list(text)


@pytest.mark.parametrize(
    ("bad", "why"), [("[1 2 ... 9]", "NumPy left out elements"), ("[1 2", "closing bracket is missing")]
)
def test_a_list_among_many_that_cannot_be_read_is_named_with_its_row(bad: str, why: str) -> None:
    rows = pd.DataFrame({"items": [f"[{i % 7} {i % 5}]" for i in range(300)], "y": [0, 1] * 150})
    rows.loc[30, "items"] = bad
    schema = Schema.infer(rows, ["y"])
    assert schema.features == (MultiCategorical("items"),)
    with pytest.raises(DataError, match=rf"row 31, column 'items': .*{why}"):
        prepare(schema, rows, holdout=0)
    assert len(prepare(schema, rows, holdout=0, bad_rows="skip").train) == 299
    rows.loc[:20, "items"] = "[1 2 ... 9]"
    with pytest.raises(SchemaError, match="no column of the frame is left"):
        Schema.infer(rows, ["y"])
