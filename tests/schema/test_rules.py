"""Each column is read by the first rule that applies, in whatever form it comes."""

import datetime
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recmtl.data import prepare
from recmtl.errors import DataError
from recmtl.schema import Binned, Categorical, MultiCategorical, Numeric, Schema, SchemaError, Task, Timestamp
from recmtl.schema.column_values import ColumnValues
from recmtl.schema.infer import ENOUGH, MAX_CODES, RULES, suggest_feature
from recmtl.schema.readings import infer_columns
from recmtl.schema.time_columns import named_like_a_time

ROWS = 400
RNG = np.random.default_rng(0)
DAY = datetime.date(2024, 1, 1)
SECONDS = (1_600_000_000 + RNG.integers(0, 10**7, ROWS)).tolist()
SPAN = "from 2020-09-14 to 2021-01-06"
LISTS = MultiCategorical("x")
CATEGORY, NUMBER = Categorical("x", min_count=2), Numeric("x")
TIMES = Timestamp("x", parts=("hour", "weekday", "day"))  # of 115 days
DATES = Timestamp("x", parts=("weekday", "day", "month"))
WHOLE = RNG.integers(0, 1000, ROWS).tolist()

# Rule: values, feature, whether it is used, the reason.
CASES: dict[str, list[tuple[list[Any], Any, bool, str]]] = {
    "missing": [([None] * ROWS, CATEGORY, False, "no value in any row")],
    "unreadable": [
        ([{"a": 1}] * ROWS, None, False, "values of type struct<a: int64>"),
        ([b"\xff", b"\xfe"] * 9, None, False, "values of type binary"),
        ([[[1]], [[2]]], None, False, "values of type list<item: list<item: int64>>"),
    ],
    "lists": [([["a", "b"], ["c"], None] * 9, LISTS, True, "lists"), ([[0.5, 2.0], None] * 9, LISTS, False, None)],
    "constant": [
        ([7] * ROWS, CATEGORY, False, "'7' in every row"),
        (["one"] * ROWS, CATEGORY, False, "'one' in every row"),
        ([7, None] * ROWS, CATEGORY, True, "one value, '7', or none"),
    ],
    "booleans": [
        ([True, False] * 9, CATEGORY, True, "true or false"),
        (["True", "FALSE", None] * 9, CATEGORY, True, "true or false"),
    ],
    "dates": [
        ([DAY, DAY + datetime.timedelta(1)], DATES, True, "dates"),
        (["2024-01-01", "2024-02-29"], DATES, True, "dates"),
        (["2024-01-01T10:00:00Z", "2024-02-29 11:30:00.25+02:00"], Timestamp("x"), True, "dates with times"),
        ([datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 2)], Timestamp("x"), True, None),
    ],
    "unix_time": [
        (SECONDS, replace(TIMES, format="seconds"), True, f"Unix time in seconds, {SPAN}"),
        ([str(t) for t in SECONDS], replace(TIMES, format="seconds"), True, f"Unix time in seconds, {SPAN}"),
        ([float(t) for t in SECONDS] + [None], replace(TIMES, format="seconds"), True, f"Unix time in seconds, {SPAN}"),
        ([t * 1000 for t in SECONDS], replace(TIMES, format="milliseconds"), True, None),
        ([t * 10**6 for t in SECONDS], replace(TIMES, format="microseconds"), True, None),
        ([t * 10**9 for t in SECONDS], replace(TIMES, format="nanoseconds"), True, f"Unix time in nanoseconds, {SPAN}"),
        ([str(t * 10**9 + 1000) for t in SECONDS], replace(TIMES, format="nanoseconds"), True, None),
        ([0, -1, None, *SECONDS], replace(TIMES, format="seconds"), True, f"Unix time in seconds, {SPAN}"),
    ],
    "row_numbers": [
        (list(range(5, ROWS + 5)), NUMBER, False, "numbers the rows: from 5 to 404, each once"),
        (RNG.permutation(2 * ROWS)[:ROWS].tolist(), NUMBER, False, None),
    ],
    "codes": [
        (list(range(MAX_CODES)) * 9, CATEGORY, True, "20 distinct whole numbers"),
        ([0.0, 1.0, None] * 9, CATEGORY, True, "2 distinct whole numbers"),
        (["0", "1", "NA"] * 9, CATEGORY, True, "2 distinct whole numbers"),
    ],
    "numbers": [
        (list(range(MAX_CODES + 1)) * 9, NUMBER, True, "21 distinct whole numbers, from 0 to 20"),
        ([0.5, 1.5] * 9, NUMBER, True, "2 distinct numbers, from 0.5 to 1.5"),
        ([Decimal("0.10"), Decimal("0.25")] * 9, NUMBER, True, "2 distinct numbers, from 0.1 to 0.25"),
        (["0.5", " 1e3", "-.25", "n/a", "?"] * 9, NUMBER, True, "3 distinct numbers, from -0.25 to 1000"),
        ([*WHOLE, float("inf")], NUMBER, True, None),
        ((np.arange(ROWS) ** 3).tolist(), NUMBER, True, None),  # each once, but far apart
        (list(range(ENOUGH - 1)), NUMBER, True, None),  # each once, but few
    ],
    "written_lists": [
        ([f"['g{i % 4}', 'h{i % 3}']" for i in range(ROWS)], LISTS, True, "lists written as text"),
        ([f'["g{i % 4}"]' if i % 2 else "[]" for i in range(ROWS)], LISTS, True, "lists written as text"),
        ([f"[{i} {i + 1}]" for i in range(ROWS)], LISTS, True, "lists written as text"),
        (["[a, b]", "[c]", "d"] * 9, LISTS, True, "lists written as text"),
        ([f"[0.{i % 10}, 1.5]" for i in range(ROWS)], LISTS, False, "lists of numbers that are not whole"),
        (["[['a'], ['b']]", "[['c']]"] * 9, None, False, "lists that hold lists, or are not whole, written as text"),
    ],
    "separated_lists": [
        ([f"g{i % 4}|h{i % 3}" for i in range(ROWS)], MultiCategorical("x", separator="|"), True, None)
    ],
    "text": [
        (["a", "b", "NA"] * 9, CATEGORY, True, "3 distinct values"),
        ([f"text {i}" for i in range(ROWS)], CATEGORY, False, "differs in every row"),
        ([f"text {i}" for i in range(9)], CATEGORY, True, "9 distinct values"),
        ([f"{i % 50:05d}" for i in range(ROWS)], CATEGORY, True, "50 distinct values, digits after a zero"),
        (["12", "12a"] * 9, CATEGORY, True, "2 distinct values"),
        (["[live]", "(a, b)", "{1: 2}", "b"] * 9, CATEGORY, True, "4 distinct values"),
        (["12a"], CATEGORY, True, "1 distinct values"),  # one row says nothing on others
    ],
}  # fmt: skip
FLAT = [(rule, *case) for rule, cases in CASES.items() for case in cases]


def read(values: list[Any], name: str = "x") -> Any:
    return suggest_feature(ColumnValues(name, pa.chunked_array([values])))


@pytest.mark.parametrize(("rule", "values", "feature", "used", "reason"), FLAT)
def test_rules(rule: str, values: list[Any], feature: Any, used: bool, reason: str | None) -> None:
    reading = read(values)
    applied = next(r for r in RULES if r(ColumnValues("x", pa.chunked_array([values]))))
    assert (applied.__name__, reading.feature, reading.used) == (rule, feature, used)
    assert reason in (None, reading.reason)
    assert reading.question is None


@pytest.mark.parametrize(
    ("days", "parts"),
    [
        (1.5, ("hour",)),
        (5, ("hour",)),
        (20, ("hour", "weekday")),
        (80, ("hour", "weekday", "day")),
        (800, ("hour", "weekday", "day", "month")),
    ],
)
def test_parts_of_a_time_are_those_that_the_rows_repeat(days: float, parts: tuple[str, ...]) -> None:
    seconds = 1_600_000_000 + np.linspace(0, days * 86_400, ROWS).astype(int)
    times = pd.to_datetime(seconds, unit="s")
    forms = [seconds.tolist(), times.tolist(), [time.isoformat() for time in times], [0, *map(int, seconds)]]
    assert [read(form).feature.parts for form in forms] == [parts] * 4
    dates = sorted({time.date() for time in times})
    if len(dates) > 20:
        without = tuple(part for part in parts if part != "hour") or ("weekday",)
        assert read(dates).feature.parts == read([str(date) for date in dates]).feature.parts == without


YEAR = 365 * 86_400
AMOUNTS = RNG.integers(7 * 10**8, 4 * 10**9, ROWS).tolist()  # of bytes
NINETIES = (850_000_000 + RNG.integers(0, 5 * 10**7, ROWS)).tolist()  # 1996 to 1998


@pytest.mark.parametrize(
    ("name", "values", "unit"),
    [
        ("disk_bytes", AMOUNTS, None),
        ("turnover", [n + 0.25 for n in AMOUNTS], None),
        ("turnover", [n * 1000 for n in AMOUNTS], None),
        ("turnover", [t + 0.25 for t in SECONDS], None),
        ("created", [n + 0.25 for n in AMOUNTS], None),
        ("created", NINETIES, None),  # before 2000
        ("created", [t + 15 * YEAR for t in SECONDS], "seconds"),
        ("created", [t + 18 * YEAR for t in SECONDS], None),  # after 2037
        ("created", (SECONDS[0] + np.arange(ROWS) * (5 * YEAR // ROWS)).tolist(), "seconds"),
        ("created", (SECONDS[0] + np.arange(ROWS) * (7 * YEAR // ROWS)).tolist(), None),  # too far apart
        ("timestamp", NINETIES, "seconds"),
        ("timestamp", [*NINETIES, *SECONDS], "seconds"),
        ("timestamp", [t + 0.25 for t in SECONDS], "seconds"),
        ("timestamp", [t + 0.25 for t in NINETIES], None),
        ("timestamp_id", SECONDS, None),
        ("time", [2024_01_01_00 + 100 * (i % 28) + i % 24 for i in range(ROWS)], "%Y%m%d%H"),  # year to hour, as digits
        ("time", [24_01_01_00_30 + 10_000 * (i % 28) + 100 * (i % 24) for i in range(ROWS)], None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", [list, lambda values: [*map(str, values)], lambda values: [*map(float, values), None]])
def test_amounts_are_no_unix_time(name: str, values: list[Any], unit: str | None, form: Any) -> None:
    reading = read(form(values), name)
    assert getattr(reading.feature, "format", None) == unit
    assert unit is not None or reading.kind == ("left out" if name.endswith("id") else "numeric")


def test_the_reason_says_how_to_read_possible_times_as_times() -> None:
    said = "; if they are Unix times in seconds, say `--kind n=timestamp`"
    assert read(AMOUNTS, "n").reason.endswith(said)
    assert "Unix" not in read([n + 0.25 for n in AMOUNTS], "n").reason + read(WHOLE, "n").reason
    frame = pd.DataFrame({"n": AMOUNTS, "y": np.arange(ROWS) % 2})
    (feature,) = Schema.infer(frame, ["y"], kinds={"n": "timestamp"}).features
    assert isinstance(feature, Timestamp)
    assert feature.format == "seconds"


@pytest.mark.parametrize(
    "name",
    [
        "time",
        "timestamp",
        "ts",
        "event_ts",
        "created_at",
        "createdAt",
        "CREATED_AT",
        "date",
        "eventTime",
        "epoch",
        "event_time_ms",
        "unix_time",
        "UTC",
    ],
)
def test_names_like_a_time(name: str) -> None:
    assert named_like_a_time(name)


@pytest.mark.parametrize(
    "name",
    [
        "update",
        "updates",
        "candidate",
        "lifetime",
        "sentiment",
        "rats",
        "at_bats",
        "cat",
        "ats",
        "attempts",
        "estimate",
    ],
)
def test_names_not_like_a_time(name: str) -> None:
    assert not named_like_a_time(name)


def test_every_rule_has_a_case_and_says_what_it_does() -> None:
    asked = {"separated_numbers", "numbers_with_units", "nearly_numbers"}
    assert {rule.__name__ for rule in RULES} == {*CASES, "identifiers", *asked}
    assert all(rule.__doc__ and rule.__doc__.endswith(".") for rule in RULES)


IDS = ["user_id", "ID", "userId", "userid", "uid", "cms_segid", "zip", "item ids", "postcode", "user.code", "itemID"]


@pytest.mark.parametrize("name", IDS)
def test_whole_numbers_named_like_an_id_are_categories(name: str) -> None:
    assert read(WHOLE, name).feature == Categorical(name, min_count=2)
    assert read(SECONDS, name).feature == Categorical(name, min_count=2)  # not a time
    assert read([*WHOLE, 0.5], name).feature == Numeric(name)
    unique = (np.arange(ROWS) ** 3).tolist()
    assert (read(unique, name).kind, read(unique, name).reason) == ("left out", "an id that differs in every row")


@pytest.mark.parametrize(
    "name", ["paid", "bid", "valid", "period", "humidity", "keyboard", "zipper", "barcoded", "grid"]
)
def test_other_names_are_not_like_an_id(name: str) -> None:
    assert read(WHOLE, name).feature == Numeric(name)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([*(f"{n / 1000:.3f}" for n in WHOLE), "many"], ["numbers in 99.8% of its rows", "'many'"]),
        ([*map(str, WHOLE), "many"], ["numbers in 99.8% of its rows", "'many'", "`--kind x=numeric` with"]),
        (["1,234", "12", "1,234,567.5"] * 9, ["separators of thousands, such as '1,234'", "write them like 1234.5"]),
        (["1,5", "2", "2,75"] * 9, ["a decimal comma", "'1,5'"]),
        (["-1,41", "2,5", "12"] * 9, ["such as '-1,41'", "`--decimal ,` (in Python `decimal=','`)", "like 1234.5"]),
        (["1.234.567", "12"] * 9, ["separators of thousands"]),
        (["1 234", "12"] * 9, ["separators of thousands"]),
        (
            [f"{n / 100:.2f}%" for n in WHOLE],
            [f"numbers with a unit, such as '{WHOLE[0] / 100:.2f}%'", "like 1234.5, without it"],
        ),
        (["0.5%", "1.5%"] * 9, ["numbers with a unit, such as '0.5%'"]),
        ([f"{n}%" if n % 20 else "n/a" for n in WHOLE], ["numbers with a unit, such as '"]),
        ([f"${n / 100:,.2f}" for n in WHOLE], [f"such as '${WHOLE[0] / 100:.2f}'"]),
        ([f"-${n}" if n % 2 else f"${n}" for n in WHOLE], ["numbers with a unit"]),
        ([f"{n / 10 - 50:.1f} kg" for n in WHOLE], ["numbers with a unit"]),
        ([f"{n} km/h" for n in WHOLE], ["numbers with a unit"]),
        ([f"USD {n / 10}" for n in WHOLE], ["numbers with a unit"]),
        (
            [f"{n / 100:.2f} €".replace(".", ",") for n in WHOLE],
            [f"such as '{WHOLE[0] / 100:.2f} €'".replace(".", ",")],
        ),
        ([f"{n}k" if n % 3 else f"{n / 10}M" for n in WHOLE], ["numbers with a unit"]),
        ([f"{n}%" if n % 2 else str(n) for n in WHOLE], ["numbers with a unit"]),
        ([f"({n}.50)" if n % 2 else f"{n}.50" for n in WHOLE], ["numbers in parentheses", "like -1234.5"]),
        ([f"(${n}.50)" if n % 2 else f"${n}.50" for n in WHOLE], ["numbers with a unit"]),
        (
            [f"{n}.5" if i % 10 else "unknown" for i, n in enumerate(WHOLE)],
            ["in 90.0% of its rows", "`--null unknown`"],
        ),
        ([f"{n}.5" if i % 3 else "un known" for i, n in enumerate(WHOLE)], ["`--null 'un known'` if", "['un known']"]),
        ([f"{n}.5" if i % 3 else f"no {n % 9}" for i, n in enumerate(WHOLE)], ["`--null WORD` for each", "nulls=[…]"]),
        ([f"{n}.5" if i % 2 else f"word {n % 400}" for i, n in enumerate(WHOLE)], ["of the test rows too"]),
    ],
)
def test_text_that_is_nearly_always_a_number_is_a_question(values: list[str], words: list[str]) -> None:
    frame = pd.DataFrame({"x": values, "y": np.arange(len(values)) % 2})
    with pytest.raises(SchemaError) as error:
        Schema.infer(frame, ["y"])
    assert all(word in str(error.value) for word in [*words, "`--kind x=categorical`", "kinds={'x': 'drop'}"])
    assert Schema.infer(frame, ["y"], kinds={"x": "categorical"}).features == (CATEGORY,)


@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize("written", ["{:.2f}", "{:.3f}", "{:.2e}"])
def test_numbers_with_the_other_decimal_mark_are_a_question_and_an_error_that_name_the_option(
    decimal: str, written: str
) -> None:
    other, name = {".": (",", "comma"), ",": (".", "point")}[decimal]
    frame = pd.DataFrame(
        {"x": [written.format(n / 100 - 1.41).replace(".", other) for n in range(99)], "y": [0, 1, 1] * 33}
    )
    assert Schema.infer(frame, ["y"], decimal=other).features == (NUMBER,)
    with pytest.raises(SchemaError) as asked:
        Schema.infer(frame, ["y"], decimal=decimal)
    assert f"numbers with a decimal {name} or separators" in str(asked.value)
    assert f"`--decimal {other}` (in Python `decimal='{other}'`) if the {name} is" in str(asked.value)
    with pytest.raises(DataError) as refused:
        prepare(Schema([NUMBER], [Task("y", "y")], decimal=decimal), frame, holdout=0)
    thousands = "" if "e" in written else "write it without separators of thousands, or "
    assert str(refused.value) == (
        f"the train frame, row 1, column 'x': {frame['x'][0]!r} is not a number: {thousands}say `--decimal {other}` "
        f"(on a card `decimal: '{other}'`) if the {name} is the decimal mark"
    )


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([f"user_{i % 50}" for i in range(ROWS)], "x"),
        ([f"#{i % 50}" for i in range(ROWS)], "x"),
        ([f"{22_000 + i % 60}" + "A" * (i % 4 == 0) for i in range(ROWS)], "StockCode"),
        ([f"{36 + 24 * (i % 2)} months" for i in range(ROWS)], "x"),
        ([f"{i % 24:02d}:00" for i in range(ROWS)], "x"),
        ([f"2024-{i % 12 + 1:02d}" for i in range(ROWS)], "x"),
        ([f"10.0.{i % 5}.{i % 7}" for i in range(ROWS)], "x"),
        ([f"{i % 40}{'ABCDEF'[i % 6]}" for i in range(ROWS)], "x"),
        ([f"{i % 9 * 10}-{i % 9 * 10 + 9}" for i in range(ROWS)], "x"),
        ([f"a film of {i % 50} words" for i in range(ROWS)], "x"),
        ([f"{i % 40}" if i % 5 == 0 else f"word {i % 70}" for i in range(ROWS)], "x"),
        ([f"{i % 40:03d}" if i % 5 else f"word {i % 5}" for i in range(ROWS)], "x"),
        ([f"{n} kg" for n in range(9)] * 9, "x"),
    ],
)
def test_names_with_numbers_in_them_are_categories(values: list[str], name: str) -> None:
    assert (read(values, name).feature, read(values, name).question) == (Categorical(name, min_count=2), None)


def test_words_for_none_leave_numbers() -> None:
    frame = pd.DataFrame({"x": [f"{n}.5" if n % 9 else "unknown" for n in WHOLE], "y": np.arange(ROWS) % 2})
    schema = Schema.infer(frame, ["y"], nulls=["unknown"])
    assert (schema.features, schema.nulls) == ((NUMBER,), ("unknown",))


def test_large_ids_are_told_apart_exactly() -> None:
    """Beyond 2⁵³ neighbours are the same float."""
    values = [2**60 + i // 2 for i in range(ROWS)]
    for found in (values, [str(v) for v in values]):
        assert read(found).reason == "whole numbers beyond 2⁵³: 200 distinct values"
        assert read(found).feature == CATEGORY
        assert read([*found, *found]).used
    assert read([2**60 + i for i in range(ROWS)]).kind == "left out"
    assert read([2.0**60 * i for i in range(1, ROWS)]).feature == NUMBER  # written as floats


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.feather", "frame", "table"])
def test_rules_do_not_depend_on_the_form_of_the_data(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame(
        {
            "whole": WHOLE,
            "gaps": [None if i % 7 == 0 else i % 60 for i in range(ROWS)],
            "flag": [i % 3 == 0 for i in range(ROWS)],
            "at": pd.date_range("2024-01-01", periods=ROWS, freq="7h"),
            "day": pd.date_range("2024-01-01", periods=ROWS).date,
            "unix": SECONDS,
            "city": [f"c{i % 30}" for i in range(ROWS)],
            "tags": [f"a{i % 4}|b{i % 5}" for i in range(ROWS)],
            "row": np.arange(ROWS),
            "same": ["s"] * ROWS,
            "number_text": [f" {i % 90}.5" for i in range(ROWS)],
            "y": np.arange(ROWS) % 2,
        }
    )
    data: Any = tmp_path / name
    if name == "a.csv":
        frame.to_csv(data, index=False)
    elif name == "a.parquet":
        frame.to_parquet(data)
    elif name == "a.feather":
        frame.to_feather(data)
    else:
        data = frame if name == "frame" else pa.Table.from_pandas(frame)
    columns = infer_columns(data, ["y"])
    assert {r.column: r.kind for r in columns.readings} == {
        "whole": "numeric",
        "gaps": "numeric",
        "flag": "categorical",
        "at": "timestamp",
        "day": "timestamp",
        "unix": "timestamp",
        "city": "categorical",
        "tags": "multi_categorical",
        "row": "left out",
        "same": "left out",
        "number_text": "numeric",
    }
    assert columns.notes[1] == "left out: row (numbers the rows: from 0 to 399, each once), same ('s' in every row)"
    assert columns.notes[0].endswith(": 2 categorical, 1 multi_categorical, 3 numeric, 3 timestamp")


class TestKinds:
    FRAME = pd.DataFrame(
        {"a": WHOLE, "b": [f"{i % 5};{i % 7}" for i in range(ROWS)], "t": SECONDS, "c": [7] * ROWS, "y": [0, 1] * 200}
    )

    @pytest.mark.parametrize(
        ("column", "kind", "feature"),
        [
            ("a", "categorical", Categorical("a", min_count=2)),
            ("a", "binned", Binned("a")),
            ("t", "numeric", Numeric("t")),
            ("t", "timestamp", replace(TIMES, name="t", format="seconds")),
            ("ns", "timestamp", replace(TIMES, name="ns", format="nanoseconds")),
            ("b", "multi_categorical", MultiCategorical("b", separator=";")),
            ("b", "categorical", Categorical("b", min_count=2)),
            ("c", "numeric", Numeric("c")),
        ],
    )  # fmt: skip
    def test_one_word_says_what_a_column_is(self, column: str, kind: str, feature: Any) -> None:
        frame = self.FRAME.assign(ns=[t * 10**9 for t in SECONDS])
        schema = Schema.infer(frame, ["y"], kinds={column: kind})
        assert next(f for f in schema.features if f.name == column) == feature

    def test_columns_are_left_out(self) -> None:
        for options in ({"drop": ["a", "t"]}, {"kinds": {"a": "drop", "t": "drop"}}, {"drop": ["[at]"]}):
            assert [f.name for f in Schema.infer(self.FRAME, ["y"], **options).features] == ["b"]

    def test_a_name_comes_before_a_pattern(self) -> None:
        schema = Schema.infer(self.FRAME, ["y"], kinds={"a": "numeric", "*": "categorical"})
        assert [type(f) for f in schema.features] == [Numeric, Categorical, Categorical, Categorical]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"kinds": {"aa": "numeric"}}, "column 'aa' is not in the frame; did you mean 'a'?"),
            ({"drop": ["zz"]}, "column 'zz' is not in the frame; its columns begin with 'a', 'b', 't'"),
            ({"kinds": {"a": "category"}}, "column 'a' cannot be read as 'category'; did you mean 'categorical'?"),
            ({"kinds": {"y": "numeric"}}, "column 'y' is a label, a group, a key or a weight: it cannot be 'numeric'"),
            ({"group": "gg"}, "column 'gg' is not in the frame"),
            ({"drop": ["*"]}, "no column of the frame is left for a feature"),
        ],
    )
    def test_bad_words(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(SchemaError) as error:
            Schema.infer(self.FRAME, ["y"], **options)
        assert message in str(error.value)


class TestLabels:
    @pytest.mark.parametrize(
        ("values", "task"),
        [
            ([0, 1, None] * 9, Task("y", "y")),
            ([0.0, 0.0] * 9, Task("y", "y")),
            ([True, False] * 9, Task("y", "y")),
            (["True", "False"] * 9, Task("y", "y")),
            (["0", "1", "NA"] * 9, Task("y", "y")),
            ([1, 2, 3] * 9, Task("y", "y", kind="regression")),
            ([0.1, 0.9, 0.5] * 9, Task("y", "y", kind="regression")),
            (["yes", "no"] * 9, Task("y", "y", kind="multiclass")),
        ],
    )
    def test_a_name_becomes_a_task(self, values: list[Any], task: Task) -> None:
        frame = pd.DataFrame({"x": [f"c{i % 4}" for i in range(len(values))], "y": values})
        columns = infer_columns(frame, ["y"])
        assert columns.tasks == Schema.infer(frame, ["y"]).tasks == (task,)
        said = any(note.startswith("label 'y' has more than two values: a regression") for note in columns.notes)
        assert said == (task.kind == "regression")
        assert ("label 'y' holds classes: a multiclass task" in columns.notes) == (task.kind == "multiclass")

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ([1, 2] * 9, "label 'y' of the frame holds 1 and 2: expected 0 and 1, or more than two numbers"),
            ([5] * 9, "label 'y' of the frame holds 5: expected 0 and 1"),
            (["yes"] * 9, "label 'y' of the frame holds 'yes': expected 0 and 1, numbers, or text alone"),
            (
                ["1", "0", "many"] * 9,
                "expected 0 and 1, numbers, or text alone; if these are classes, say",
            ),
        ],
    )
    def test_other_values_are_refused(self, values: list[Any], message: str) -> None:
        with pytest.raises(SchemaError) as error:
            Schema.infer(pd.DataFrame({"x": range(len(values)), "y": values}), ["y"])
        assert message in str(error.value)

    def test_an_unknown_label_is_refused_with_the_nearest_column(self) -> None:
        with pytest.raises(SchemaError, match="column 'clik' is not in the frame; did you mean 'click'"):
            Schema.infer(pd.DataFrame({"x": [1], "click": [0]}), ["clik"])


class TestSortedFiles:
    """What the first rows lack is seen in blocks of the rest."""

    ROWS = 400_000

    def frame(self) -> pd.DataFrame:
        rows = np.arange(self.ROWS)
        late = rows >= 250_000
        return pd.DataFrame(
            {
                "x": rows % 997,
                "late": np.where(late, rows % 50 + 0.5, np.nan),
                "constant_first": np.where(late, rows % 5, 1),
                "text_last": np.where(rows >= 350_000, "word", "12"),
                "y": (rows % 2),
                "pad": np.where(rows % 2, "padding of the line so that the head is not all " * 2, "short"),
            }
        )

    @pytest.mark.parametrize("form", ["a.csv", "a.parquet", "groups.parquet", "a.feather", "frame", "table", "files"])
    def test_late_values_are_seen(self, tmp_path: Path, form: str) -> None:
        frame, data = self.frame(), tmp_path / form
        if form == "a.csv":
            frame.to_csv(data, index=False)
            assert data.stat().st_size > 1 << 24
        elif form.endswith(".parquet"):
            frame.to_parquet(data, row_group_size=30_000 if form.startswith("groups") else self.ROWS)
        elif form == "a.feather":
            frame.to_feather(data)
        elif form == "files":
            data.mkdir()
            for i in range(8):
                frame.iloc[i * 50_000 : (i + 1) * 50_000].to_csv(data / f"{i}.csv", index=False)
        else:
            data = frame if form == "frame" else pa.Table.from_pandas(frame)
        kinds = {r.column: r.kind for r in infer_columns(data, ["y"]).readings}
        assert kinds == {
            "x": "numeric",
            "late": "numeric",
            "constant_first": "categorical",
            "text_last": "categorical",
            "pad": "categorical",
        }

    def test_quoted_line_breaks_do_not_disturb(self, tmp_path: Path) -> None:
        rows = 300_000
        frame = pd.DataFrame(
            {"a": np.arange(rows) % 97, "note": 'say "it",\n3,4\nin lines ' * 3, "y": np.arange(rows) % 2}
        )
        frame.to_csv(tmp_path / "a.csv", index=False)
        columns = infer_columns(tmp_path / "a.csv", ["y"])
        assert {r.column: r.reason for r in columns.readings}["a"] == "97 distinct whole numbers, from 0 to 96"


def test_bytes_that_are_not_utf8_are_left_to_prepare(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"x,y\na,0\nb,1\n\xff,0\n")
    assert Schema.infer(tmp_path / "a.csv", ["y"]).features == (CATEGORY,)


@pytest.mark.parametrize(
    ("content", "refused", "message"),
    [
        ("", DataError, "a.csv is empty: expected a header and rows"),
        ("x,y\n", SchemaError, "there are no rows in "),
        ("x,x,y\n1,1,0\n", SchemaError, "a.csv has the column 'x' twice"),
    ],
)
def test_files_without_rows(tmp_path: Path, content: str, refused: type[Exception], message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(refused) as error:
        Schema.infer(tmp_path / "a.csv", ["y"])
    assert message in str(error.value)


def test_dictionaries_and_views(tmp_path: Path) -> None:
    words = pa.array(["a", "b", "a"] * 9)
    table = pa.table({"d": words.dictionary_encode(), "v": words.cast(pa.string_view()), "y": [0, 1, 0] * 9})
    assert [type(f) for f in Schema.infer(table, ["y"]).features] == [Categorical] * 2
    pq.write_table(table.drop_columns("v"), tmp_path / "a.parquet")
    assert Schema.infer(tmp_path / "a.parquet", ["y"]).features == (Categorical("d", min_count=2),)


def test_a_number_of_more_digits_than_a_float_holds_is_read() -> None:
    frame = pd.DataFrame({"x": [f"{i / 7}" for i in range(50)] + ["9" * 400], "y": [0, 1] * 25 + [0]})
    assert infer_columns(frame, ["y"]).readings[0].feature == Numeric("x")


@pytest.mark.parametrize("form", [float, lambda i: f"{float(i)}", "{:.5E}".format])
def test_ids_that_went_through_a_float_are_left_out(form: Any) -> None:
    reading = read([form(2**60 + 10**15 * i) for i in range(9)] * 9, "user_id")
    reason = "ids that went through a float or a spreadsheet, which do not tell them apart"
    assert (reading.used, reading.reason) == (False, reason)
    frame = pd.DataFrame({"user_id": [form(2**60)] * 4, "z": [0, 1, 2, 3], "y": [0, 1, 0, 1]})
    assert [f.name for f in Schema.infer(frame, ["y"], drop=["user_id"]).features] == ["z"]


def test_several_files_are_named_as_such(tmp_path: Path) -> None:
    for name in "abc":
        pd.DataFrame({"x": [*range(20)], "click": [0, 1] * 10}).to_parquet(tmp_path / f"{name}.parquet")
    found = infer_columns(tmp_path, ["click"])
    assert found.notes[0].startswith(f"read 1 columns of {tmp_path / 'a.parquet'} and 2 more by 60 of its rows: ")
