"""Each planted fault of a dataset is a warning, and honest data has none."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.data import describe
from recmtl.schema import Categorical, Numeric, Schema, Task

ROWS = 600
FIRST, LAST = 1_700_000_000, 1_700_900_000  # of Unix times
FEATURES = {
    "user": [str(i % 80) for i in range(ROWS)],
    "price": np.random.default_rng(0).normal(size=ROWS),
    "ts": np.random.default_rng(1).integers(FIRST, LAST, ROWS),
    "tags": ["a|b", "c|d|e", "b|c"] * (ROWS // 3),
    "words": ["['a', 'b']", "['c', 'd']"] * (ROWS // 2),
    "day": ["2024-01-05", "2024-01-06"] * (ROWS // 2),
    "clock": ["10:30", "09:15:20"] * (ROWS // 2),
    "session": [f"s{i}" for i in range(ROWS)],
    "rare": ["x", "y", *[None] * 18] * (ROWS // 20),
    "click": np.random.default_rng(2).integers(0, 2, ROWS),
}
HONEST = ("user", "price", "click")


def frame(*names: str) -> pd.DataFrame:
    return pd.DataFrame({name: FEATURES[name] for name in (*names, *HONEST) if name in FEATURES})


def schema(*names: str) -> Schema:
    features = [Numeric(name) if name in ("price", "ts") else Categorical(name) for name in (*names, "user", "price")]
    return Schema(features, [Task("ctr", "click")])


def warnings_of(*names: str, **test: object) -> tuple[str, ...]:
    rows = frame(*names)
    other = {} if not test else {"test": rows.assign(**test)}
    return describe(rows, schema(*names), **other).warnings


def test_honest_rows_have_no_warnings() -> None:
    assert warnings_of(user=FEATURES["user"]) == ()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("ts", "column 'ts' is read as numbers, but holds Unix times in seconds, from 2023-11-1"),
        ("tags", "column 'tags' is read as one category per row, but holds lists written as text, such as"),
        ("words", "column 'words' is read as one category per row, but holds lists written as text, such as"),
        ("day", "column 'day' is read as categories, but holds dates, such as '2024-01-0"),
        ("clock", "column 'clock' is read as categories, but holds times of day, such as"),
        ("session", "column 'session' has 600 categories in 600 training rows: nearly each row has its own"),
        ("rare", "column 'rare' is missing in 90% of the training rows"),
    ],
)
def test_what_a_column_is_read_as(name: str, says: str) -> None:
    (warning,) = warnings_of(name)
    assert warning.startswith(says)


@pytest.mark.parametrize(
    ("test", "says"),
    [
        ({"user": [f"n{i}" if i % 50 < 43 else "1" for i in range(ROWS)]}, ["column 'user': 86% of the values"]),
        (
            {"price": FEATURES["price"] + 2.6 * FEATURES["price"].std()},
            ["column 'price': the mean of the test rows is 2.6 deviations above"],
        ),
        ({"user": [None, "1"] * (ROWS // 2)}, ["column 'user' is missing in 50% of the test rows, 0% of the tr"]),
        ({"click": [0, 0, 0, 0, 1] * (ROWS // 5)}, ["task 'ctr': 20.00% of the test rows are positive, "]),
    ],
)  # fmt: skip
def test_how_other_rows_differ(test: dict[str, object], says: list[str]) -> None:
    found = warnings_of(**test)
    assert len(found) == len(says)
    assert all(warning.startswith(text) for warning, text in zip(found, says, strict=True))


def test_unseen_categories_of_prepared_rows() -> None:
    other = frame().assign(user="nobody")
    (warning,) = describe(recmtl.prepare(schema(), frame(), test=other)).warnings
    assert warning.startswith("column 'user': 100% of the values in the test rows are not among those")


def test_few_positives() -> None:
    rows = frame().assign(click=[1] * 12 + [0] * (ROWS - 12))
    assert describe(rows, schema()).warnings == ("task 'ctr' has 12 positives among its training rows",)


def test_a_feature_named_like_a_weight() -> None:
    rows = frame().assign(survey_weight=FEATURES["price"], weight_kg=FEATURES["price"])
    (warning,) = describe(rows, labels=["click"], kinds={"user": "categorical"}).warnings
    assert warning.startswith(
        "column 'survey_weight' is read as a feature: if it says how much a row counts, say `--weight"
    )


@pytest.mark.parametrize(("count", "says"), [(1, "a column has no name and is"), (2, "2 columns have no name and are")])
def test_columns_without_a_name(count: int, says: str, tmp_path: Path) -> None:
    lines = [",".join([*[""] * count, "price", "click"]), *(f"{'7,' * count}{i * i},{i % 2}" for i in range(300))]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    warned = [text for text in describe(tmp_path / "rows.csv", labels=["click"]).warnings if "no name" in text]
    assert warned == [f"{says} left out: give a feature a name in the header"]


def test_brief_prints_warnings_and_counts_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame("ts").rename(columns={"ts": "t"}).to_csv(tmp_path / "rows.csv", index=False)
    arguments = ["describe", str(tmp_path / "rows.csv"), "--label", "click", "--kind", "t=numeric"]
    assert main([*arguments, "--brief"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("WARNING: column 't' is read as numbers, but holds Unix times")
    assert out[1].endswith("rows.csv: 600 train rows; 3 columns: 3 numeric")
    assert (
        out[2]
        == f"task click: {sum(FEATURES['click'])} positives in 600 train rows ({sum(FEATURES['click']) / 600:.2%})"
    )
    assert not any("─" in line or "│" in line for line in out)
    assert main([*arguments, "--brief", "--json"]) == 2
    assert "give one of them" in capsys.readouterr().err
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], len(told["warnings"])) == ({"train": 600}, 1)


def test_later_times_are_no_unseen_categories() -> None:
    rows = pd.DataFrame({"seen": pd.date_range("2024-01-01", periods=40, freq="D"), "click": [0, 1] * 20})
    later = rows.assign(seen=rows["seen"] + pd.Timedelta(days=400))
    schema = recmtl.Schema([recmtl.Timestamp("seen")], [recmtl.Task("click", "click")])
    described = recmtl.describe(rows, test=later, schema=schema)
    assert described.drift["unseen"].isna().all()
    assert not any("among those of the training" in warning for warning in described.warnings)


def test_columns_that_are_left_out_are_noted_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also in brief; and not once more as constant."""
    rows = frame("ts").assign(user=[f"u{i}" for i in range(600)], one=7)
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert main(["describe", str(tmp_path / "rows.csv"), "--label", "click", "--kind", "ts=drop", "--brief"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert notes == ["note: left out: ts (as you say), user (differs in every row), one ('7' in every row)"]
