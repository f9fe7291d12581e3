"""Calendar parts of dates and times from every source, compared with Python's calendar."""

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recmtl.data import DataError, encode_rows, prepare
from recmtl.data.columns.timestamps import calendar_ids
from recmtl.data.store.format import IDS
from recmtl.errors import BadValueError
from recmtl.io.formats import replace_nulls
from recmtl.io.spellings import NullWords
from recmtl.schema import Schema, Task, Timestamp
from recmtl.schema.features import CALENDAR
from recmtl.schema.fitted import FIRST, MISSING

ALL = Timestamp("when", parts=tuple(CALENDAR))
TIMES = [
    dt.datetime(2024, 2, 29, 23, 59, 58),
    dt.datetime(1969, 12, 31, 0, 1),
    dt.datetime(2000, 1, 1),
    dt.datetime(9999, 12, 31, 12),
    dt.datetime(2026, 7, 5, 6, 7, 8),
]


def expected(time):
    if time is None:
        return [MISSING] * len(CALENDAR)
    parts = [time.minute, time.hour, time.weekday(), time.day - 1, time.month - 1, (time.month - 1) // 3]
    return [part + FIRST for part in parts]


def ids(array, feature=ALL):
    return calendar_ids(array if isinstance(array, pa.Array) else pa.array(array), feature).tolist()


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_timestamps(unit):
    times = [*TIMES, None]
    found = calendar_ids(pa.array(times, pa.timestamp(unit)), ALL)
    assert found.dtype == np.int32
    assert found.tolist() == [expected(time) for time in times]
    assert ids(pa.array(times, pa.timestamp(unit)).dictionary_encode()) == found.tolist()


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()], ids=str)
def test_dates(kind):
    days = [time.date() for time in TIMES]
    assert ids(pa.array([*days, None], kind)) == [
        *(expected(dt.datetime.combine(day, dt.time())) for day in days),
        expected(None),
    ]


def test_column_with_a_time_zone():
    noon = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
    shifted = dt.datetime(2024, 1, 2, 1)
    assert ids(pa.array([noon], pa.timestamp("us", "+13:00"))) == [expected(shifted)]


@pytest.mark.parametrize(
    "text",
    ["{:%Y-%m-%d %H:%M:%S}", "{:%Y-%m-%dT%H:%M:%S}.123456789", "{:%Y-%m-%dT%H:%M:%S}Z", "{:%Y-%m-%d %H:%M:%S} +05:30"],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_text_with_an_offset_keeps_its_local_time(text, encoded):
    array = replace_nulls(pa.array([*(text.format(time) for time in TIMES), None, "", "NaN"]), NullWords())
    assert ids(array.dictionary_encode() if encoded else array) == [expected(time) for time in [*TIMES, *[None] * 3]]


def test_text_may_mix_dates_and_times():
    assert ids(["2024-02-29", "2024-02-29T10:30", "20240229", "2024-02-29 10:30:00.5-08:00"]) == [
        expected(dt.datetime(2024, 2, 29, hour, 30 * bool(hour))) for hour in (0, 10, 0, 10)
    ]


def test_integers_without_a_format_are_eight_digit_dates():
    assert ids([20240229, None]) == [expected(dt.datetime(2024, 2, 29)), expected(None)]


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("%d.%m.%Y %H:%M", "29.02.2024 10:30"),
        ("%d/%b/%Y:%H:%M:%S %z", "29/Feb/2024:10:30:07 -0700"),
        ("%d.%m.%Y %H:%M:%S%z", " 29.02.2024 10:30:07.125 UTC"),
        ("%m/%d/%Y %I:%M %p", "2/29/2024 10:30 am"),
        ("%Y%m%d%H%M", "202402291030"),
        (None, "2024-02-29 10:30:00 UTC"),
        (None, "2024-02-29T10:30:00.5GMT+02:00"),
    ],
)
def test_format(written, text):
    feature = Timestamp("when", parts=tuple(CALENDAR), format=written)
    assert ids([text, None], feature) == [expected(dt.datetime(2024, 2, 29, 10, 30)), expected(None)]


@pytest.mark.parametrize(
    ("unit", "factor"), [("seconds", 1), ("milliseconds", 1000), ("microseconds", 10**6), ("nanoseconds", 10**9)]
)
def test_unix_time_is_utc(unit, factor):
    times = [time for time in TIMES if factor < 10**9 or time.year < 2262]  # what 64 bits hold
    numbers = [int(time.replace(tzinfo=dt.UTC).timestamp()) * factor for time in times]
    feature = Timestamp("when", parts=tuple(CALENDAR), format=unit)
    for kind in (pa.int64(), pa.float64(), pa.string()):
        assert ids(pa.array([*numbers, None], pa.int64()).cast(kind, safe=False), feature) == [
            expected(t) for t in [*times, None]
        ]


@pytest.mark.parametrize("written", ["%d.%m.%Y %H:%M", "%m/%d/%Y %I:%M %p", "%d.%m.%YT%H:%M:%S%z"])
def test_the_time_of_day_may_lack(written):
    day = dt.datetime(2024, 2, 29)
    feature = Timestamp("when", parts=tuple(CALENDAR), format=written)
    assert ids([f"{day:{written}}", f"{day:{written[:8]}}"], feature) == [expected(day)] * 2


@pytest.mark.parametrize("written", ["seconds", "%Y%m%d", "%Y%m%d%H"])
def test_no_time_in_digits_is_missing(written):
    feature = Timestamp("when", parts=tuple(CALENDAR), format=written)
    assert ids(["-", "N/A"], feature) == [expected(None)] * 2
    for zero in ([0, -1], ["0", "-1"], [0.0, -1.0]):
        assert ids(zero, feature) == [expected(None)] * 2


def test_missing_in_every_row():
    assert ids(pa.nulls(2)) == [expected(None)] * 2


@pytest.mark.parametrize(
    ("values", "written", "message"),
    [
        (["2023-01-01", "2023-02-29"], None, "row 1, column 'when': '2023-02-29' is not an ISO 8601 date"),
        ([None, "2023-01-01T25:00"], None, "row 1, column 'when': '2023-01-01T25:00' is not"),
        (["2023-01-01", "2023-01-01", "now"], None, "row 2, column 'when': 'now' is not"),
        (["2023"], None, "row 0, column 'when': '2023' is not"),
        (
            ["874724710"],
            None,
            "'874724710' is not an ISO 8601 date: for Unix time in seconds set `format=\"seconds\"`",
        ),
        ([1_700_000_000_000], "seconds", 'a Unix time in seconds: for Unix time in milliseconds set `format="millis'),
        ([1_700_000_000], "milliseconds", "'1700000000' is not a Unix time in milliseconds: for Unix time in seconds"),
        ([None, True], None, "row 1, column 'when': 'true' is not"),
        ([["2023-01-01"]], None, "row 0, column 'when': ['2023-01-01'] is not an ISO 8601 date"),
        (
            ["01.01.2023", "2023-01-01"],
            "%d.%m.%Y",
            "row 1, column 'when': '2023-01-01' is not a date in the format '%d",
        ),
        (["01.01.2023", "today"], "%d.%m.%Y", "row 1, column 'when': 'today' is not a date in the format '%d.%m.%Y'"),
        (["01/31/2024"], None, """date: for such dates set `format="%m/%d/%Y"`"""),
        (["2/1/2024"], None, """set `format="%d/%m/%Y"` or `format="%m/%d/%Y"`"""),
        (["never"], None, "date: dates in another form need a `format`"),
        (
            ["01/31/2024", "31/01/2024"],
            "%m/%d/%Y",
            "row 1, column 'when': '31/01/2024' is not a date in the format",
        ),
        (["20240131", "2024131"], "%Y%m%d", "row 1, column 'when': '2024131' is not a date in the format '%Y%m%d'"),
        (["2024013110", "20240131"], "%Y%m%d%H", "row 1, column 'when': '20240131' is not a date in the format '%Y"),
        (["0", "soon"], "seconds", "row 1, column 'when': 'soon' is not a Unix time in seconds"),
        ([0, 1_700_000_000_000], "seconds", "row 1, column 'when': '1700000000000' is not a Unix time in seconds"),
        ([0.0, float("inf")], "milliseconds", "row 1, column 'when': 'inf' is not a Unix time in milliseconds"),
    ],
)
def test_invalid_date(values, written, message):
    with pytest.raises(BadValueError) as caught:
        ids(values, Timestamp("when", format=written))
    assert message in str(caught.value)


def test_error_contains_the_line(tmp_path):
    (tmp_path / "a.csv").write_text("when,y\n2024-01-01,0\n2024-01-32,1\n2024-01-03,1\n")
    with pytest.raises(DataError, match=r"a\.csv, line 3, column 'when': '2024-01-32' is not an ISO 8601 date"):
        prepare(Schema([ALL], [Task("t", "y")]), tmp_path / "a.csv", holdout=0)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "frame"])
def test_every_source_gives_the_same_ids(tmp_path, name):
    frame = pd.DataFrame({"when": [*TIMES[:3], None], "y": [0, 1, 0, 1]})
    data = frame if name == "frame" else tmp_path / name
    if name == "a.csv":
        frame.to_csv(data, index=False)
    elif name == "a.parquet":
        pq.write_table(pa.Table.from_pandas(frame), data)
    fitted = prepare(Schema([ALL], [Task("t", "y")]), data, holdout=0).schema
    assert [block.name for block in fitted.id_blocks] == [f"when.{part}" for part in CALENDAR]
    assert [block.size for block in fitted.id_blocks] == [FIRST + size for size in CALENDAR.values()]
    (rows,) = encode_rows(fitted, data)
    assert rows.table[IDS].to_pylist() == [expected(time) for time in [*TIMES[:3], None]]
