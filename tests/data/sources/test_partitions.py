"""Folders of daily and hourly partitions: which files a range has, as a source of every command."""

from pathlib import Path

import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.errors import DataError
from recmtl.io.partitions import Span
from recmtl.recipe.data import open_data
from recmtl.recipe.data_options import DataOptions

DAYS = [f"2024-01-0{day}" for day in range(1, 6)]
QUICK = ["--trainer.epochs", "1", "--model.layers", "[4]", "--trainer.run.progress", "false"]


def write(folder: Path, *paths: str) -> Path:
    """Write a file of one row into each folder: its number."""
    for number, path in enumerate(paths):
        (folder / path).mkdir(parents=True, exist_ok=True)
        pd.DataFrame({"x": [number], "y": [number % 2]}).to_csv(folder / path / "part.csv", index=False)
    return folder


def numbers(place: str | Path, *bounds: str | None) -> list[int]:
    """Return the numbers of the folders in a range."""
    return [int(pd.read_csv(file.path)["x"][0]) for file in recmtl.Partitions(place, *bounds).files()]


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Forty rows a day."""
    for day, name in enumerate(DAYS):
        (tmp_path / f"logs/date={name}").mkdir(parents=True)
        rows = pd.DataFrame({"c": list("abcd") * 10, "x": [day + i / 40 for i in range(40)], "y": [0, 1, 1, 0] * 10})
        rows.to_csv(tmp_path / f"logs/date={name}/rows.csv", index=False)
    return tmp_path / "logs"


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2024-02", "2024-02-01 00", "2024-03-01 00"),
        ("2024-12", "2024-12-01 00", "2025-01-01 00"),
        ("2024-02-29", "2024-02-29 00", "2024-03-01 00"),
        ("20240229", "2024-02-29 00", "2024-03-01 00"),
        ("2024-12-31T23", "2024-12-31 23", "2025-01-01 00"),
        ("2024-01-31-05", "2024-01-31 05", "2024-01-31 06"),
        ("2024-01-31 05:00:00", "2024-01-31 05", "2024-01-31 06"),
    ],
)
def test_spans(text: str, start: str, end: str) -> None:
    span = Span.parse(text)
    assert span is not None
    assert [f"{moment:%Y-%m-%d %H}" for moment in span] == [start, end]


@pytest.mark.parametrize(
    "text", ["2023-02-29", "2024-13", "2024-01-01T24", "2024", "01.02.2024", "240101", "today", ""]
)
def test_no_spans(text: str) -> None:
    assert Span.parse(text) is None


@pytest.mark.parametrize(
    ("since", "until", "found"),
    [
        ("2024-01-02", "2024-01-04", [1, 2, 3]),
        (None, "20240102", [0, 1]),
        ("2024-01-05", None, [4]),
        ("2023-12", "2024-01", [0, 1, 2, 3, 4]),
        ("2024-01-02T00", "2024-01-03T23", [1, 2]),
        ("2024-01-03", "2024-01-03", [2]),
    ],
)
def test_both_bounds_are_included(tmp_path: Path, since: str | None, until: str | None, found: list[int]) -> None:
    write(tmp_path, *(f"date={day}" for day in DAYS), "date=__HIVE_DEFAULT_PARTITION__")
    assert numbers(tmp_path, since, until) == found
    assert numbers(tmp_path / "date=*/*.csv", since, until) == found
    assert recmtl.Partitions(tmp_path, since, until).days() == [DAYS[i] for i in found]


def test_hours_months_and_calendars(tmp_path: Path) -> None:
    named = [f"date=2024-01-0{day}/hour={hour}" for day in (1, 2) for hour in ("00", "7", "23")]
    hours = write(tmp_path / "a", *named)
    assert numbers(hours, "2024-01-01T07", "2024-01-02T07") == [1, 2, 3, 4]
    assert numbers(hours, "2024-01-02") == [3, 4, 5]
    assert recmtl.Partitions(hours).days() == DAYS[:2]
    assert recmtl.Partitions(hours).date_keys() == ["date"]
    months = write(tmp_path / "b", "month=2024-01", "month=2024-02", "month=2024-03")
    assert numbers(months, "2024-02-01", "2024-03-31") == [1, 2]
    calendar = write(
        tmp_path / "c", "year=2023/month=12/day=31", "year=2024/month=1/day=1", "year=2024/month=01/day=02"
    )
    assert numbers(calendar, "2023-12-31", "2024-01-01") == [0, 1]
    assert recmtl.Partitions(calendar).date_keys() == ["year", "month", "day"]
    assert recmtl.Partitions(months).days() == ["2024-01", "2024-02", "2024-03"]
    encoded = write(tmp_path / "d", "at=2024-01-01 05%3A00%3A00", "at=2024-01-01 06%3A00%3A00")
    assert numbers(encoded, "2024-01-01T06") == [1]


def test_the_key_is_the_only_one_with_dates(tmp_path: Path) -> None:
    write(tmp_path, "country=NL/day=2024-01-01", "country=FR/day=2024-01-02")
    assert numbers(tmp_path, "2024-01-02") == [1]
    both = write(tmp_path / "both", "signup=2023-01-01/date=2024-01-01", "signup=2024-01-01/date=2024-01-02")
    assert numbers(both, "2024-01-02", None, "date") == [1]
    assert numbers(both, "2024-01-01", None, "signup") == [1]
    with pytest.raises(DataError, match="several keys with dates: name one of signup, date"):
        numbers(both, "2023-01-01")


def test_folders_out_of_the_range_are_not_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, *(f"date={day}/hour=05" for day in DAYS))
    listed = []
    real = recmtl.io.location._list_folder
    monkeypatch.setattr(
        "recmtl.io.location._list_folder",
        lambda place, folder, *more: listed.append(folder) or real(place, folder, *more),
    )
    assert numbers(tmp_path, "2024-01-03", "2024-01-03") == [2]
    assert sorted({Path(folder).name for folder in listed if "=" in Path(folder).name}) == [
        "date=2024-01-03",
        "hour=05",
    ]


@pytest.mark.parametrize(
    ("paths", "bounds", "said"),
    [
        (
            ["date=2024-01-01"],
            ("2024-02-01", "2024-02-07"),
            "holds no files from 2024-02-01 until 2024-02-07: its folders",
        ),
        (["date=2024-01-01"], (None, "2023"), "`until` must be a day, a month or an hour, such as 2024-01-31"),
        (["date=2024-01-01"], ("2024-01-02", "2024-01-01"), "`since` 2024-01-02 is after `until` 2024-01-01"),
        (["date=monday"], ("2024-01-01",), "'monday' is no date, such as 2024-01-31"),
        (["country=NL"], ("2024-01-01",), "lies in no folder named by its date, such as date=2024-01-31"),
        (["country=NL"], ("2024-01-01", None, "country"), "'NL' is no date"),
        (["country=NL"], ("2024-01-01", None, "date"), "lies in no folder named by date=2024-01-31"),
        (["."], ("2024-01-01",), "part.csv' lies in no folder named by its date"),
        (["date=2024-01-01/hour=24"], ("2024-01-01",), "'24' is no hour from 0 to 23"),
        (["date=2024-01-01"], ("2024-01-01T06",), "which are partly out of the range: choose whole folders"),
        (["month=2024-01"], (None, "2024-01-15"), "which are partly out of the range"),
    ],
)
def test_ranges_that_cannot_be_read(tmp_path: Path, paths: list[str], bounds: tuple[str], said: str) -> None:
    write(tmp_path, *paths)
    with pytest.raises(DataError) as caught:
        numbers(tmp_path, *bounds)
    assert said in str(caught.value)


def test_a_range_is_a_source_in_python(logs: Path) -> None:
    train, test = recmtl.Partitions(logs, DAYS[0], DAYS[2]), recmtl.Partitions(logs, DAYS[3])
    schema = recmtl.Schema.infer(train, ["y"], drop=["date"])
    data = recmtl.prepare(schema, train, test=test, holdout=0)
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 120, "test": 80}
    assert recmtl.describe([train, test], schema).labels["rows"].sum() == 200


def test_the_cache_holds_each_range(logs: Path, tmp_path: Path) -> None:
    def fingerprint(**days: str) -> tuple[str, int]:
        options = DataOptions(train=str(logs), labels=["y"], cache=tmp_path / "cache", holdout=0, **days)
        data = open_data(options)
        return data.fingerprint, len(data.train)

    found = [fingerprint(since=DAYS[0], until=until) for until in (DAYS[1], DAYS[2], DAYS[1])]
    assert [rows for _, rows in found] == [80, 120, 80]
    assert found[0] == found[2]
    assert found[0][0] != found[1][0]
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_missing_days_are_noted(logs: Path, tmp_path: Path) -> None:
    (logs / f"date={DAYS[2]}/rows.csv").unlink()
    options = DataOptions(train=str(logs), labels=["y"], cache=tmp_path / "cache", since=DAYS[0], until="2024-01-06")
    notes = [note for note in open_data(options).notes if "no folder" in note]
    assert notes == [f"there is no folder of {DAYS[2]} and 1 more days in {logs}"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"since": DAYS[0], "until": DAYS[2], "test": "logs"}, "name those of its test rows by `test_since`"),
        ({"until": DAYS[2], "test_since": DAYS[2]}, "is among the train and the test rows: give them different days"),
        ({"test_since": DAYS[4]}, "is among the train and the test rows"),
        ({"date_key": "date"}, "`date_key` says by which folders days are chosen"),
    ],
)
def test_days_of_splits_that_do_not_fit(
    logs: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, str], said: str
) -> None:
    monkeypatch.chdir(logs.parent)
    with pytest.raises(DataError) as caught:
        open_data(DataOptions(train="logs", labels=["y"], **options))
    assert said in str(caught.value)


def test_every_command_takes_days(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    recipe.write_text(f"data:\n  train: {logs}\n  labels: [y]\n  since: '2024-01-01'\n  until: '20240102'\n")
    days = ["--data.valid_since", DAYS[2], "--data.valid_until", DAYS[2], "--data.test_since", DAYS[3]]
    assert main(["train", "--config", str(recipe), *days, "--run", str(run), *QUICK]) == 0
    result = recmtl.runs.folder.RunFolder(run).result()
    assert {split: result[split]["y"]["rows"] for split in ("valid", "test")} == {"valid": 40, "test": 80}
    capsys.readouterr()
    prepared = ["--label", "y", "--out", str(tmp_path / "data")]
    for command in (
        ["predict", str(run), "--rows", str(logs), "--since", "20240105", "--out", str(tmp_path / "p.csv")],
        ["evaluate", str(run), "--rows", str(logs), "--since", DAYS[3], "--until", DAYS[3], "--draws", "0"],
        ["describe", str(logs), "--since", DAYS[0], "--until", DAYS[1], "--label", "y"],
        ["prepare", "--train", str(logs), "--until", DAYS[3], "--test_since", DAYS[4], *prepared],
        ["report", str(run), "--draws", "0", "--out", str(tmp_path / "r.html")],
        ["train", "--run", str(run), "--resume", "--data.since", DAYS[0]],
    ):  # fmt: skip
        assert main(command) == 0
    said = capsys.readouterr().out
    assert "40 predictions" in said
    assert "prepared" in said
    assert main(["predict", str(run), "--rows", str(tmp_path / "data"), "--since", DAYS[0], "--out", "q.csv"]) == 2
    assert "is a prepared dataset, of which no days are chosen" in capsys.readouterr().err
    assert (
        main(["train", "--data.train", str(tmp_path / "data"), "--since", DAYS[0], "--run", str(tmp_path / "b")]) == 2
    )
    assert "is a prepared dataset, of which no days are chosen: leave out `since`" in capsys.readouterr().err
