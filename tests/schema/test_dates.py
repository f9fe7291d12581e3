"""Dates as people write them: the format that is inferred, what is asked, and what a format makes of later files."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from recmtl.cli.main import main
from recmtl.data import prepare
from recmtl.errors import DataError
from recmtl.io.spellings import digits_of
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.schema import Schema, SchemaError, Timestamp
from recmtl.schema.column_values import ColumnValues
from recmtl.schema.date_text import formats_of, other_order, parse_dates
from recmtl.schema.infer import suggest_feature

TIMES = [dt.datetime(2023, 1, 1, 9, 30, 15) + i * dt.timedelta(days=5, hours=7, minutes=13) for i in range(160)]
FORMATS = [
    *("%m/%d/%Y", "%d.%m.%Y", "%d/%m/%Y", "%Y/%m/%d", "%d-%m-%Y", "%Y.%m.%d", "%d.%m.%y", "%m/%d/%y"),
    *("%d-%b-%Y", "%d %B %Y", "%b %d, %Y", "%d-%b-%y"),
    *("%d/%b/%Y:%H:%M:%S", "%Y%m%dT%H%M%S", "%Y%m%d_%H%M%S", "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S +0000 %Y"),
    *("%m/%d/%Y %H:%M", "%d.%m.%Y %H:%M:%S", "%d/%m/%YT%H:%M:%S", "%m/%d/%Y %I:%M:%S %p", "%Y-%m-%d %I:%M%p"),
]
DIGITS = ["%y%m%d%H", "%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"]


def read(values: list[Any], name: str = "x") -> Any:
    return suggest_feature(ColumnValues(name, pa.chunked_array([values])))


def written(date_format: str) -> list[str]:
    return [format(time, date_format) for time in TIMES]


@pytest.mark.parametrize("date_format", [*FORMATS, *DIGITS])
def test_the_format_is_found_and_reads_what_was_written(date_format: str) -> None:
    feature = read(written(date_format)).feature
    assert (type(feature), feature.format) == (Timestamp, date_format)
    assert ("hour" in feature.parts) == ("%H" in date_format or "%I" in date_format)
    read_back = parse_dates(pa.array(written(date_format)), date_format).to_pylist()
    assert read_back == [dt.datetime.strptime(text, date_format) for text in written(date_format)]


@pytest.mark.parametrize(
    ("values", "date_format"),
    [
        ([f"{t.month}/{t.day}/{t.year} {t.hour}:{t.minute:02}" for t in TIMES], "%m/%d/%Y %H:%M"),  # of spreadsheets
        ([f"{t:%Y-%m-%d %H:%M:%S} UTC" for t in TIMES], None),  # of BigQuery
        ([f"{t:%Y-%m-%d}Z" for t in TIMES], None),
        ([f"{t:%d/%b/%Y:%H:%M:%S} -0700" for t in TIMES], "%d/%b/%Y:%H:%M:%S%z"),  # of web servers
        ([f"{t:%a, %d %b %Y %H:%M:%S} GMT" for t in TIMES], "%a, %d %b %Y %H:%M:%S%z"),  # of mail
        ([f"{t:%Y%m%dT%H%M%SZ}" for t in TIMES], "%Y%m%dT%H%M%S%z"),
        ([f"{t:%a %b} {t.day:2} {t:%H:%M:%S %Y}" for t in TIMES], "%a %b %d %H:%M:%S %Y"),  # of `ctime`
        ([int(f"{t:%y%m%d%H}") for t in TIMES], "%y%m%d%H"),
        ([f" {t:%d/%m/%Y %H:%M} GMT" for t in TIMES], "%d/%m/%Y %H:%M%z"),
        ([f"{t:%d.%m.%Y %H:%M:%S}.{i}" for i, t in enumerate(TIMES)], "%d.%m.%Y %H:%M:%S"),
        ([f"{t:%d.%m.%Y}" if i % 2 else f"{t:%d.%m.%Y %H:%M}" for i, t in enumerate(TIMES)], "%d.%m.%Y %H:%M"),
        ([int(f"{t:%Y%m%d}") for t in TIMES], "%Y%m%d"),
        ([*(float(f"{t:%Y%m%d}") for t in TIMES), 0.0, None], "%Y%m%d"),
    ],
)
def test_other_spellings(values: list[Any], date_format: str | None) -> None:
    feature = read(values).feature
    assert (type(feature), feature.format) == (Timestamp, date_format)


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("x", [20240131, 20240130, 20240229] * 9, "timestamp"),
        ("x", [20240131, 20240130, 20240230] * 9, "categorical"),  # 30 February
        ("x", [20240131, 20240130] * 9, "categorical"),  # by chance
        ("x", [19691231, 20240130, 20240129] * 9, "categorical"),
        ("user_id", [20240131, 20240130, 20240129] * 9, "categorical"),
        ("date_key", [20240131, 20240130, 20240129] * 9, "timestamp"),
        ("x", list(range(20240101, 20240401)), "left out"),
        ("x", ["1.2.3", "1.12.4", "10.2.3"] * 9, "categorical"),  # versions
        ("x", ["may be", "31 others"] * 9, "categorical"),
        ("x", ["01/31/2024", "none"] * 9, "categorical"),
        ("x", [24013100 + i for i in range(20)] * 9, "categorical"),  # dates and hours by chance
        ("x", [f"{t:%Y-%m-%d}" for t in TIMES] + [f"word {i}" for i in range(200)], "left out"),
    ],
)
def test_what_is_no_date(name: str, values: list[Any], kind: str) -> None:
    assert read(values, name).kind == kind


@pytest.mark.parametrize(
    ("values", "question"),
    [
        (
            ["01/02/2024", "03/04/2024"],
            "holds dates in which day and month may be swapped, such as '01/02/2024': say `--kind x=categorical`, "
            "`--kind x=drop` (in Python `kinds={'x': 'drop'}`), or their format, `--date_format x=%d/%m/%Y` or "
            "`--date_format x=%m/%d/%Y` (in Python `date_formats={'x': …}`)",
        ),
        (
            [*written("%d.%m.%Y"), "never"],
            "in 99.4% of its rows, and text such as 'never' in others: say `--kind x=categorical`, `--kind x=drop` (in "
            "Python `kinds={'x': 'drop'}`), `--null never` if such text stands for a missing value (in Python "
            "`nulls=['never']`), or `--date_format x=%d.%m.%Y` with `--bad_rows skip`",
        ),
        (
            [*written("%Y-%m-%d"), "0000-00-00"],
            "holds dates in 99.4% of its rows, and text such as '0000-00-00' in others",
        ),
        ([*written("%d.%m.%Y"), *["never"] * 40], "`--null never` if such text stands for a missing value"),
        ([*written("%d.%m.%Y"), "2024-01-05"], "write them in one form, or `--date_format x=%d.%m.%Y` with"),
        ([*written("%d.%m.%Y"), *written("%m.%d.%Y")], "write them in one form"),
    ],
)
def test_what_is_asked(values: list[str], question: str) -> None:
    assert question in read(values).question


class TestFormats:
    def test_formats_of_one_text(self) -> None:
        assert formats_of("3/4/2024") == ["%d/%m/%Y", "%m/%d/%Y"]
        assert formats_of("2024-01-31") == [None, "%Y-%m-%d"]
        assert formats_of("31/31/2024") == formats_of("01/31/2024 and more") == []

    def test_other_order(self) -> None:
        assert other_order("%d.%m.%Y %H:%M") == "%m.%d.%Y %H:%M"
        assert [other_order(f) for f in ("%Y-%m-%d", "%d-%b-%Y", None)] == [None] * 3

    def test_digits(self) -> None:
        assert [digits_of(f) for f in ("%Y%m%d", "%y%m%d%H", "%d.%m.%Y", "%b%Y", None)] == [8, 8, 0, 0, 0]

    @pytest.mark.parametrize("date_format", ["DD/MM/YYYY", "mixed", "%Q", "%d.%m.%"])
    def test_what_is_no_format(self, date_format: str) -> None:
        with pytest.raises(SchemaError, match="`format` must be one of seconds, milliseconds"):
            Timestamp("x", format=date_format)


FRAME = pd.DataFrame({"seen": [f"{t.day % 12 + 1:02}/{t.month:02}/2024" for t in TIMES], "y": np.arange(160) % 2})


def test_a_format_decides_and_later_files_must_have_it() -> None:
    with pytest.raises(SchemaError, match="day and month may be swapped"):
        Schema.infer(FRAME, ["y"])
    for name in ("seen", "se*"):
        schema = Schema.infer(FRAME, ["y"], date_formats={name: "%d/%m/%Y"})
        (feature,) = schema.features
        assert isinstance(feature, Timestamp)
        assert feature.format == "%d/%m/%Y"
        assert Schema.from_dict(schema.to_dict()) == schema
    later = FRAME.assign(seen="2024-01-31")
    with pytest.raises(DataError, match="column 'seen': '2024-01-31' is not a date in the format '%d/%m/%Y'"):
        prepare(schema, FRAME, test=later, holdout=0)
    with pytest.raises(SchemaError, match="column 'seen' cannot be 'numeric' and have a date format"):
        Schema.infer(FRAME, ["y"], {"seen": "numeric"}, date_formats={"seen": "%d/%m/%Y"})
    with pytest.raises(SchemaError, match="column 'sen' is not in the frame; did you mean 'seen'"):
        Schema.infer(FRAME, ["y"], date_formats={"sen": "%d/%m/%Y"})


def test_an_hour_without_minutes_is_one() -> None:
    feature = read([f"{t:%Y-%m-%d %H}" for t in TIMES]).feature
    assert (feature.format, "hour" in feature.parts) == (None, True)


def test_commands_take_a_format(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    path, said = tmp_path / "a.csv", ["--label", "y", "--date_format", "seen=%d/%m/%Y"]
    FRAME.to_csv(path, index=False)
    assert main(["prepare", "--train", str(path), *said, "--out", str(tmp_path / "data")]) == 0
    assert "read as dates, in every file in the same format: seen (%d/%m/%Y)" in " ".join(
        capsys.readouterr().err.split()
    )
    assert main(["describe", str(path), *said, "--out", str(tmp_path / "card.yaml")]) == 0
    card = yaml.safe_load((tmp_path / "card.yaml").read_text())
    assert card["features"][0]["format"] == "%d/%m/%Y"
    data: Any = parse_recipe(recipe_parser("test"), said).data
    assert (data.labels, data.date_formats) == (["y"], {"seen": "%d/%m/%Y"})
    assert main(["describe", str(path), "--label", "y", "--date_format", "seen"]) != 0
    assert "`--date_format` must be COLUMN=FORMAT, such as `--date_format seen=%d/%m/%Y`, got 'seen'" in " ".join(
        capsys.readouterr().err.split()
    )
