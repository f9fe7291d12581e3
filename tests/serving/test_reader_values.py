"""The reader of an exported model encodes every value as training does, and refuses what training refuses."""

import datetime
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recmtl.data import prepare
from recmtl.data.preparation.encode_batch import encode_batch
from recmtl.data.store.format import IDS, LIST_PREFIX, NUMERIC, to_matrix
from recmtl.errors import BadValueError, RequestError
from recmtl.io.formats import plain_array, without_nulls
from recmtl.schema import (
    Binned,
    Categorical,
    Feature,
    FittedSchema,
    MultiCategorical,
    Numeric,
    Schema,
    Task,
    Timestamp,
)
from recmtl.schema.extend import Extension
from recmtl.serving.encoder_files import write_encoder
from recmtl.serving.request_encoder import RequestEncoder

WORDS = ("a", "b", "true", "3", "17", "-4", "x y", "é", "2024", "0", "1", "0.5", " a")
TEXT = [
    *WORDS, "", "NA", "nan", "NaN", "None", "none", "-", "?", "N/A", "nul", "\\N", "unseen", "a ", "3.0", "3.00",
    "-4.0", "True", "False", "TRUE", "false", "007", "-0", "-0.0", "1e3", "1.5", ".5", "5.", "+1", "1_0", "0x1F",
    "1,5", "1.234,5", "1e400", "inf", "-Infinity", "+nan", " 1 ", "\u00a01", "\u0663", "1.0000000000000001",
    "1234567890123456.0", "12345678901234567890.0", "1.15292E+18", "1.5e+15", "9007199254740993",
    "9007199254740992.0", "99999999999999999999", "\x00", "a|b", "a|b|a|3", "a||b", "|", "b|NA|a", "['a', 'b']",
    '["a","b"]', "[1 2]", "[]", "['a'", "[1, 2", "('a', 'b')", "(live)", "{a,b}", "{1: 2}", "[[1], [2]]", "[1 ... 3]",
    "['a' None]", " ['a'] ", "a|3.0", "a| b ", "2024-05-06", "20240506", "2024-0506", "2024-05-06 07",
    "2024-05-06T07:08", "2024-05-06 0708", "2024-05-06 07:08:09.123", "2024-05-06T07:08:09Z",
    "2024-05-06T07:08:09+02:00", "2024-05-06 24:00", "2024-05-06 07:08:60", "2024-05-06 7:8", "2024-02-30",
    "2023-02-29", "0000-01-01", "0001-01-01", "9999-12-31 23:59:59", "2024-05-06T", "06.05.2024", "6.5.2024",
    "06.05.2024 07:08", "1970", "now", "1717171717", "1717171717000", "1717171717.9", "-5", "1e9", "631152000",
    "07/05/2024 11:12 PM", "07/05/2024", "2024-05-06 UTC", "20240506 070809", "2024-05-06 07:08:09 GMT+2",
    "2024-05-06 070", "2024-05-06 07080", "06.05.0000", "06.05.2024 07:60", "2024-05-06T07:08:60Z",
    "2024-05-06T07:08:09.123456789Z", "2024-05-06T7", "20240506 7:08", "20240506T0", "2024-05-06T07:08:09+2:00",
    "2024-05-06 07:08 -3", "2024-05-06T07:08:09+02:00:00", "2024-05-06T07+2:3", f"2024-05-06{' ' * 118}Z",
    f"2024-05-06{' ' * 117}Z", f"{' ' * 150}2024-05-06", f"{'0' * 118}1717171717", f"{'0' * 119}1717171717",
    "{it's, 10:30}", "{it's, 1030}", "['a', b   c ]", f"{'1' * 310}",
]  # fmt: skip
NUMBERS = [0, 1, 3, 17, -4, 2024, 20240506, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 1717171717, -1, 5]
FLOATS = [
    0.0, -0.0, 3.0, 0.5, 1.5, -4.0, 1e-5, 1e-7, 1.25e-7, 1e10 + 0.5, 2.0**40 + 0.5, 2.0**53, 1e18, 1e300, -1e300,
    5e-324, math.nan, math.inf, -math.inf, 0.1, 17.0, 1717171717.0, 20240506.0, 123456.789, 2.0**53 - 1,
]  # fmt: skip
ZONE = datetime.timezone(datetime.timedelta(hours=2))
TIMES = [
    datetime.datetime(2024, 5, 6, 7, 8, 9, 5),
    datetime.datetime(1969, 12, 31, 23, 59, 59),
    datetime.datetime(1, 1, 1),
]
OTHERS = [
    [True, False], [datetime.date(2024, 2, 29), datetime.date(1, 1, 1)], TIMES, [b"a", b"3.0", b"NA", b"\xff"],
    [Decimal("3.0"), Decimal("1.5"), Decimal("17")], [None], [Decimal("0.10"), Decimal("0.50")],
    [np.float32(number) for number in (0.1, 0.5, 3, -4, 1e30)], [np.int16(number) for number in (0, 1, 17, -4)],
    ["+17", "017", "1.7e1", " 17", "-1.0e0", "0.1e0", "0,1", "17,0", "1,50", "15e-1", "-0.10", "1e-400"],
    [["a", "b"], [], [" a ", None, "NA", "3.0"], ["zz"] * 9], [[1, 2, 3], [17]], [[0.5, 3.0, math.nan], [2.0**53]],
    [[["a"]]], [datetime.datetime(2024, 5, 6, 7, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))],
    [[True], [False, True]],
]  # fmt: skip
GROUPS: list[list[Any]] = [TEXT, NUMBERS, FLOATS, *OTHERS]

TEXTS = [WORDS[i % len(WORDS)] for i in range(80)]
HOLES = [None if i % 5 == 0 else word for i, word in enumerate(TEXTS)]
INTEGERS = [(i * i) % 23 - 4 for i in range(80)]
REALS = [math.sin(i) * 10 ** (i % 4) for i in range(80)]
GAPS = [math.nan if i % 7 == 0 else value for i, value in enumerate(REALS)]
LISTS = [list(WORDS[: i % 5]) for i in range(80)]
FULL_LISTS = [["a", *own] for own in LISTS]
DATES = pd.date_range("2024-01-01", periods=80, freq="37h").astype(str).tolist()
DAYS = [10 + i % 20 for i in range(80)]
SECONDS = [1_700_000_000 + 40_000 * i for i in range(80)]

# The feature with the name `x`, further ones, and the columns of the training rows.
CASES: dict[str, tuple[list[Feature], dict[str, Sequence[Any]]]] = {
    "text": ([Categorical("x")], {"x": HOLES}),
    "never missing": ([Categorical("x")], {"x": TEXTS}),
    "integers": ([Categorical("x", min_count=2)], {"x": INTEGERS}),
    "most frequent": ([Categorical("x", max_vocabulary=4)], {"x": HOLES}),
    "constant": ([Categorical("x")], {"x": ["a"] * 80}),
    "always missing": ([Categorical("x")], {"x": [None] * 80}),
    "buckets": ([Categorical("x", hash_buckets=7)], {"x": HOLES}),
    "shared": ([Categorical("y"), Categorical("x", share_with="y")], {"x": TEXTS, "y": HOLES}),
    "rated": ([Categorical("x", label_rates=True)], {"x": HOLES}),
    "rated buckets": ([Categorical("x", hash_buckets=5, label_rates=True)], {"x": TEXTS}),
    "list": ([MultiCategorical("x", max_length=3)], {"x": LISTS}),
    "list, first": ([MultiCategorical("x", max_length=3, keep="first", min_count=2)], {"x": LISTS}),
    "full list": ([MultiCategorical("x", separator=",")], {"x": FULL_LISTS}),
    "constant list": ([MultiCategorical("x")], {"x": [["a", "b"]] * 80}),
    "list of buckets": ([MultiCategorical("x", hash_buckets=5)], {"x": LISTS}),
    "list of another": ([Categorical("y"), MultiCategorical("x", share_with="y")], {"x": LISTS, "y": TEXTS}),
    "knots": ([Numeric("x")], {"x": GAPS}),
    "never missing number": ([Numeric("x", missing_indicator=True)], {"x": REALS}),
    "many knots": ([Numeric("x")], {"x": [math.tan(i) for i in range(200)]}),
    "standardize": ([Numeric("x", "standardize", clip=(-3, None))], {"x": GAPS}),
    "min_max": ([Numeric("x", "min_max", clip=(None, 8.5))], {"x": REALS}),
    "log1p": ([Numeric("x", "log1p", missing_indicator=False)], {"x": GAPS}),
    "quantile": ([Numeric("x", "quantile")], {"x": [round(v) if v == v else v for v in GAPS]}),
    "none": ([Numeric("x", "none")], {"x": GAPS}),
    "constant number": ([Numeric("x", "standardize")], {"x": [0.1] * 80}),
    "constant log": ([Numeric("x", "log1p")], {"x": [3.0] * 80}),
    "no number": ([Numeric("x")], {"x": [math.nan] * 80}),
    "binned": ([Binned("x", bins=6)], {"x": GAPS}),
    "clipped bins": ([Binned("x", bins=6, clip=(-2, 3))], {"x": REALS}),
    "constant bin": ([Binned("x")], {"x": [2.0] * 80}),
    "dates": ([Timestamp("x", ("minute", "hour", "weekday", "day", "month", "quarter"))], {"x": DATES}),
    "dates with holes": ([Timestamp("x")], {"x": [None, *DATES[1:]]}),
    "one day": ([Timestamp("x", ("hour", "month"))], {"x": [f"2024-05-06 {i % 24:02d}:00" for i in range(80)]}),
    "format": ([Timestamp("x", format="%d.%m.%Y %H:%M")], {"x": [f"0{i % 8 + 1}.05.2024 07:{i % 60}" for i in DAYS]}),
    "half days": ([Timestamp("x", format="%m/%d/%Y %I:%M %p")], {"x": [f"07/{i}/2024 11:12 AM" for i in DAYS]}),
    "digits": ([Timestamp("x", ("day", "weekday"), format="%Y%m%d")], {"x": [20240501 + i % 28 for i in range(80)]}),
    "zone": ([Timestamp("x", format="%Y-%m-%dT%H:%M:%S%z")], {"x": [f"2024-05-{i}T07:08:09Z" for i in DAYS]}),
    "seconds": ([Timestamp("x", format="seconds")], {"x": SECONDS}),
    "milliseconds": ([Timestamp("x", format="milliseconds")], {"x": [1000 * s + 7 for s in SECONDS]}),
}  # fmt: skip
FORMATS: list[tuple[str, dict[str, Any]]] = [
    ("text", {"nulls": ["nul", "3", "a"]}),
    ("list", {"nulls": ["nul", "3", "a"]}),
    ("integers", {"nulls": ["17", "-4"]}),
    ("knots", {"nulls": ["nul", "1.5"], "decimal": ","}),
    ("binned", {"decimal": ","}),
    ("standardize", {"nulls": ["17", "0.1", "-4.0"]}),
    ("none", {"nulls": ["0", "1.0", "1234567890123456789012"]}),
    ("binned", {"nulls": ["1,5", "0"], "decimal": ","}),
    ("clipped bins", {"nulls": ["-1", "0.50"]}),
    ("buckets", {"nulls": ["3", "1.5"]}),
    ("list of buckets", {"nulls": ["3.0", "0.5"]}),
    ("seconds", {"nulls": ["1717171717", "17"]}),
    ("dates", {"nulls": ["2024-05-06", "1970"]}),
    ("digits", {"nulls": ["20240506"]}),
]


def fitted_schema(case: str, **text: Any) -> FittedSchema:
    features, columns = CASES[case]
    rows = len(columns["x"])
    label = [i % 3 == 0 for i in range(rows)]
    frame = pd.DataFrame({name: pd.Series(list(v), dtype=None) for name, v in columns.items()} | {"label": label})
    return prepare(Schema(features, [Task("t", "label")], **text), frame, holdout=0).schema


def encoder_of(fitted: FittedSchema, folder: Path) -> RequestEncoder:
    folder.mkdir()
    write_encoder(fitted, folder)
    return RequestEncoder(folder)


def by_training(fitted: FittedSchema, values: Sequence[Any]) -> list[Any]:
    """Encode values, of one type, of the column `x` as training does; a refused one is `None`."""
    numbers = frozenset(f.name for f in fitted.schema.numbers)
    given = pa.record_batch({"x": plain_array(pa.array(values))})
    (column,) = without_nulls(given, fitted.schema.text_format.null_words, numbers).columns
    kept, found = np.arange(len(values)), [None] * len(values)
    while len(kept):
        own = column.take(pa.array(kept))
        others = [f.name for f in fitted.schema.features if f.name != "x"]
        batch = pa.record_batch({"x": own} | {name: pa.nulls(len(own), pa.string()) for name in others})
        try:
            encoded = encode_batch(fitted, batch)
        except BadValueError as bad:
            kept = kept[~bad.mask] if bad.mask is not None else kept[:0]
            continue
        for place, row in zip(kept.tolist(), rows_of(fitted, encoded), strict=True):
            found[place] = row
        break
    return found


def rows_of(fitted: FittedSchema, encoded: pa.RecordBatch) -> list[tuple[list[int], list[float], list[list[int]]]]:
    """The ids, numbers and lists of each row."""
    rows, names = encoded.num_rows, encoded.schema.names
    ids = to_matrix(encoded.column(IDS)).tolist() if IDS in names else [[]] * rows
    numbers = to_matrix(encoded.column(NUMERIC)).tolist() if NUMERIC in names else [[]] * rows
    lists = [encoded.column(LIST_PREFIX + block.name).to_pylist() for block in fitted.list_blocks]
    return [(ids[row], numbers[row], [own[row] for own in lists]) for row in range(rows)]


def by_reader(encoder: RequestEncoder, values: Sequence[Any]) -> list[Any]:
    """Encode values of the column `x` by the reader, in one request if none is refused."""
    others = {name: None for name in encoder.fields if name != "x"}
    rows = [{"x": value} | others for value in values]
    try:
        return unpacked(encoder.encode_rows(rows), len(rows))
    except RequestError as error:
        if error.field != "x" or error.row is None or repr(values[error.row]) != repr(error.value):
            raise
        before, after = (by_reader(encoder, part) for part in (values[: error.row], values[error.row + 1 :]))
        return [*before, None, *after]


def unpacked(inputs: Mapping[str, npt.NDArray[Any]], rows: int) -> list[Any]:
    ids = inputs["ids"].tolist() if "ids" in inputs else [[]] * rows
    numbers = inputs["numeric"].tolist() if "numeric" in inputs else [[]] * rows
    lists = []
    for place in range(sum(name.startswith("list_") for name in inputs)):
        ends = np.cumsum(inputs[f"lengths_{place}"])
        lists.append([part.tolist() for part in np.split(inputs[f"list_{place}"], ends[:-1])])
    return [(ids[row], numbers[row], [own[row] for own in lists]) for row in range(rows)]


def check(fitted: FittedSchema, encoder: RequestEncoder, values: Sequence[Any]) -> None:
    try:
        expected = by_training(fitted, values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # a column that Arrow has no type for
        return
    found = by_reader(encoder, values)
    wrong = [(v, e, f) for v, e, f in zip(values, expected, found, strict=True) if e != f]
    assert not wrong, wrong[:5]


@pytest.mark.parametrize("case", CASES)
def test_every_value_is_encoded_as_in_training(case: str, tmp_path: Path) -> None:
    fitted = fitted_schema(case)
    encoder = encoder_of(fitted, tmp_path / "model")
    for values in GROUPS:
        check(fitted, encoder, values)


@pytest.mark.parametrize(("case", "text"), FORMATS)
def test_words_for_missing_values_and_the_decimal_mark_are_those_of_the_schema(
    case: str, text: dict[str, Any], tmp_path: Path
) -> None:
    fitted = fitted_schema(case, **text)
    encoder = encoder_of(fitted, tmp_path / "model")
    for values in GROUPS:
        check(fitted, encoder, values)


NUMERALS = st.from_regex(r"\A[+-]?[0-9]{0,20}[.,]?[0-9]{0,18}([eE][+-]?[0-9]{1,3})?\Z")
CLOCKS = st.from_regex(r"\A[0-9]{4}-?[01][0-9]-?[0-3][0-9][T ]?[0-9:]{0,8}([.,][0-9]{1,9})?(Z| UTC|[+-]0[0-9]:?30)?\Z")
BRACKETS = st.text("['\"a, |](){}1.\\", max_size=12)
PIECES = st.lists(st.sampled_from([*TEXT, "a", "|", "|"]), max_size=4).map("".join)
ODD_TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8) | PIECES
EXAMPLES = 8
RANDOM: dict[str, st.SearchStrategy[Any]] = {
    "text": ODD_TEXT | NUMERALS,
    "buckets": ODD_TEXT,
    "list": BRACKETS | ODD_TEXT,
    "knots": NUMERALS | ODD_TEXT,
    "dates": CLOCKS | ODD_TEXT,
    "format": CLOCKS | ODD_TEXT,
    "milliseconds": NUMERALS,
}


@pytest.mark.parametrize("case", RANDOM)
def test_any_text_is_encoded_as_in_training(case: str, tmp_path: Path) -> None:
    fitted = fitted_schema(case)
    encoder = encoder_of(fitted, tmp_path / "model")

    @settings(max_examples=EXAMPLES)
    @given(st.lists(RANDOM[case], min_size=1, max_size=20))
    def property_(values: list[str]) -> None:
        check(fitted, encoder, values)

    property_()


@pytest.mark.parametrize("case", ["buckets", "many knots", "quantile", "log1p", "clipped bins"])
def test_any_float_is_encoded_as_in_training(case: str, tmp_path: Path) -> None:
    fitted = fitted_schema(case)
    encoder = encoder_of(fitted, tmp_path / "model")

    @settings(max_examples=EXAMPLES)
    @given(st.lists(st.floats() | st.floats(-30, 30, width=16), min_size=1, max_size=20))
    def property_(values: list[float]) -> None:
        check(fitted, encoder, values)

    property_()


def test_the_free_ids_of_a_vocabulary_are_those_of_no_category(tmp_path: Path) -> None:
    rows = pd.DataFrame({"x": list("aab3"), "click": [0, 1, 0, 1]})
    first = prepare(Schema([Categorical("x")], [Task("ctr", "click")]), rows, holdout=0)
    later = Extension(first.schema, max_age=1)  # b and 3 are not seen
    second = prepare(None, rows.assign(x=list("aaac")), holdout=0, extend=later).schema
    assert second.vocabularies["x"].to_pylist() == ["a", "c", None]
    encoder = encoder_of(second, tmp_path / "encoder")
    assert encoder.encode({"x": ["a", "b", "c", 3, None]})["ids"].tolist() == [[2], [0], [3], [0], [0]]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("case", ["text", "buckets", "list", "knots", "binned", "dates", "format", "seconds"])
def test_any_json_value_is_encoded_or_refused_whatever_stands_beside_it(case: str, tmp_path: Path) -> None:
    encoder = encoder_of(fitted_schema(case), tmp_path / "model")

    @settings(max_examples=EXAMPLES)
    @given(st.lists(JSON_VALUES | st.text(st.characters(), max_size=3), min_size=1, max_size=8))
    def property_(values: list[Any]) -> None:
        together = by_reader(encoder, values)
        alone = [by_reader(encoder, [value])[0] for value in values]
        many = by_reader(encoder, values * 9)  # enough for other ways through the encoder
        assert together == alone
        assert many == together * 9

    property_()
