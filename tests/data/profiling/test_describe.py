import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.data import DataError, describe, prepare
from recmtl.data.profiling import tally
from recmtl.schema import Categorical, MultiCategorical, Numeric, Schema, SchemaError, Task, Timestamp

HAND = pd.DataFrame(
    {
        "city": ["x", "x", "y", None],
        "tags": ["a|b", "a", None, "c"],
        "price": [1.0, 3.0, np.nan, 2.0],
        "one": [5, 5, 5, 5],
        "void": [np.nan] * 4,
        "click": [1.0, 0.0, 1.0, np.nan],
        "buy": [1, 0, 0, 0],
        "search": [1, 1, 2, 2],
        "w": [1.0, 1.0, 2.0, 2.0],
    }
)
TEST = pd.DataFrame(
    {
        "city": ["x", "z", None, "q", "x"],
        "tags": ["a|d", None, "d|d", "c", "c"],
        "price": [4.0, np.nan, 4.0, 4.0, 4.0],
        "one": [5, 5, 6, 5, 5],
        "void": [np.nan] * 5,
    }
)
SCHEMA = Schema(
    [Categorical("city"), MultiCategorical("tags"), Numeric("price"), Categorical("one"), Numeric("void")],
    [Task("ctr", "click"), Task("cvr", "buy", given="click")],
    group="search",
    weight="w",
)


@pytest.fixture(scope="module")
def hand():
    return describe(HAND, SCHEMA, test=TEST)


def leaky(rows=2000, seed=0):
    """Rows with a copy of the label with 1 % noise and an honest feature with an AUC of about 0.8."""
    rng = np.random.default_rng(seed)
    click = (rng.random(rows) < 0.2).astype(int)
    noisy = np.where(rng.random(rows) < 0.01, 1 - click, click)
    honest = click * 1.19 + rng.normal(size=rows)
    return pd.DataFrame({"noisy": noisy, "honest": honest, "shop": rng.integers(0, 30, rows), "click": click})


def by(frame, *names):
    return frame.set_index(list(names)).T.to_dict()


def test_columns(hand):
    columns = by(hand.columns, "column")
    assert {name: c["kind"] for name, c in columns.items()} == {
        "search": "group",
        "w": "weight",
        "city": "categorical",
        "tags": "multi_categorical",
        "price": "numeric",
        "one": "categorical",
        "void": "numeric",
    }
    assert [columns[name]["missing"] for name in ("city", "tags", "price", "void")] == [0.25, 0.25, 0.25, 1]
    assert [columns[name]["distinct"] for name in ("city", "tags", "price", "one", "void")] == [2, 3, 3, 1, 0]
    assert not hand.columns["more"].any()
    assert hand.notes[:2] == ("column 'void' is missing in every row", "column 'one' is constant")


def test_values_and_numbers(hand):
    values = by(hand.values, "column", "value")
    assert values["city", "x"] == {"rows": 2, "share": 0.5}
    assert values["tags", "a"] == {"rows": 2, "share": 0.5}
    assert list(hand.values[hand.values["column"] == "tags"]["value"]) == ["a", "b", "c"]
    price = by(hand.numbers, "column")["price"]
    assert [price[k] for k in ("lowest", "50 %", "highest", "mean")] == [1, 2, 3, 2]
    assert price["deviation"] == pytest.approx((2 / 3) ** 0.5)
    assert price["5 %"] == pytest.approx(1.1)
    assert hand.numbers.set_index("column").loc["void"].isna().all()


def test_labels(hand):
    assert by(hand.labels, "split", "task") == {
        ("train", "ctr"): {"rows": 3, "positives": 2, "mean": pytest.approx(2 / 3)},
        ("train", "cvr"): {"rows": 2, "positives": 1, "mean": 0.5},
    }


def test_drift(hand):
    drift = by(hand.drift, "split", "column")
    assert drift["test", "city"]["unseen"] == 2 / 4  # z and q of four that are not missing
    assert drift["test", "city"]["missing"] == 1 / 5
    assert drift["test", "tags"]["unseen"] == 3 / 6  # three times d of six elements
    assert drift["test", "one"]["unseen"] == 1 / 5
    assert drift["test", "price"]["shift"] == pytest.approx(2 / (2 / 3) ** 0.5)
    assert np.isnan(drift["test", "price"]["unseen"])
    assert np.isnan(drift["test", "void"]["shift"])


def test_a_leak_is_a_warning_and_an_honest_feature_is_not():
    description = describe(leaky(), labels=["click"])
    assert list(description.leaks["column"]) == ["noisy"]
    (warning,) = description.warnings
    auc = description.leaks["auc"].item()
    assert warning == (
        f"column 'noisy' alone separates label 'click' with AUC {auc:.3f}: is it known before 'click' is?"
    )
    assert 0.98 < auc < 0.995
    assert not describe(leaky().drop(columns="noisy"), labels=["click"]).warnings
    (again,) = describe(leaky().assign(noisy=lambda f: f["click"]), labels=["click"]).warnings
    assert again == "column 'noisy' is label 'click' in other words: is it known before 'click' is?"


def test_a_list_that_gives_the_label_away():
    frame = leaky().assign(tags=lambda f: np.where(f["click"] == 1, "a|b", np.where(f.index % 2, "a|c", "b")))
    schema = Schema([MultiCategorical("tags"), Numeric("honest")], [Task("ctr", "click")])
    lists = pa.Table.from_pandas(frame.assign(tags=frame["tags"].str.split("|")), preserve_index=False)
    for data in (frame, lists):
        assert list(describe(data, schema).leaks["column"]) == ["tags"]
    assert list(describe(recmtl.prepare(schema, lists)).leaks["column"]) == ["tags"]


def test_without_labels_leaks_are_not_looked_for():
    description = describe(leaky())
    assert description.leaks.empty
    assert description.labels.empty
    assert set(description.columns["column"]) == {"noisy", "honest", "shop", "click"}
    assert description.notes == ("no label is named: columns that give one away were not looked for",)


def test_too_few_rows_of_a_class_are_noted():
    (note,) = describe(leaky(30), labels=["click"]).notes
    assert note.startswith(
        "label 'click' has fewer than 10 groups (or rows, without a group) with a class in the sample: "
    )
    card = Schema([Numeric("honest")], [Task("ctr", "click")])
    (note,) = describe(leaky().drop(columns="click"), card).notes  # rows to predict
    assert note.startswith("label 'click' has fewer than 10 groups")


def test_a_larger_dataset_is_sampled_and_counted_exactly(tmp_path, monkeypatch):
    frame = leaky(20_000)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=3000)
    monkeypatch.setattr(tally.Sample.__init__, "__defaults__", (1000,))
    for name in ("rows.csv", "rows.parquet"):
        description = describe(tmp_path / name, labels=["click"])
        assert description.notes == (
            "quantiles and columns that give a label away are those of a sample of 1,000 of 20,000 rows",
        )
        assert list(description.leaks["column"]) == ["noisy"]
        assert by(description.labels, "task")["click"]["positives"] == frame["click"].sum()
        honest = by(description.numbers, "column")["honest"]
        assert honest["mean"] == pytest.approx(frame["honest"].mean())
        assert honest["50 %"] == pytest.approx(frame["honest"].median(), abs=0.15)


def test_more_categories_than_are_counted(monkeypatch):
    monkeypatch.setattr(tally.CategoryTally.__init__, "__defaults__", (10,))
    frame = leaky().assign(shop=lambda f: np.where(f.index % 2, "big", f.index.astype(str)))
    description = describe(frame, labels=["click"], test=frame)
    shop = by(description.columns, "column")["shop"]
    assert (shop["distinct"], shop["more"]) == (10, True)
    assert by(description.values, "column", "value")["shop", "big"] == {"rows": 1000, "share": 0.5}
    assert np.isnan(by(description.drift, "column")["shop"]["unseen"])
    assert any(note.startswith("column 'shop' has more than 10 categories") for note in description.notes)


def test_files_in_any_form(tmp_path):
    frame = leaky(200)
    for i in range(2):
        frame[i * 100 : (i + 1) * 100].to_csv(tmp_path / f"{i}.csv", index=False)
    expected = describe(frame, labels=["click"]).to_dict()
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for data in (tmp_path, f"{tmp_path}/*.csv", [tmp_path / "0.csv", tmp_path / "1.csv"], table):
        found = describe(data, labels=["click"]).to_dict()
        for name in ("columns", "values", "labels"):
            assert found[name] == expected[name]


def test_a_prepared_dataset():
    description = describe(recmtl.prepare(SCHEMA, HAND, valid=HAND, test=TEST.assign(click=1, buy=0, search=1, w=1.0)))
    columns = by(description.columns, "column")
    assert {n: columns[n]["vocabulary"] for n in ("city", "tags", "one")} == {"city": 2, "tags": 3, "one": 1}
    assert columns["city"]["missing, train"] == 1 / 4
    assert columns["city"]["unknown, train"] == 0
    assert (columns["city"]["missing, test"], columns["city"]["unknown, test"]) == (1 / 5, 2 / 4)
    assert columns["tags"]["unknown, test"] == 3 / 6
    assert pd.isna(columns["price"]["vocabulary"])
    price = by(description.numbers, "column")["price"]
    assert (price["raw mean"], price["raw deviation"]) == (2, pytest.approx((2 / 3) ** 0.5))
    assert (price["mean"], price["transform"]) == (pytest.approx(0, abs=1e-6), "knots")
    labels = by(description.labels, "split", "task")
    assert labels["train", "ctr"] == labels["valid", "ctr"] == {"rows": 3, "positives": 2, "mean": pytest.approx(2 / 3)}
    assert labels["test", "cvr"] == {"rows": 5, "positives": 0, "mean": 0}
    drift = by(description.drift, "split", "column")
    assert drift["test", "city"]["unseen"] == 2 / 4
    assert drift["valid", "price"]["shift"] == pytest.approx(0, abs=1e-6)
    assert any("'one' is constant" in note for note in description.notes)


def test_a_prepared_folder_is_described_like_the_dataset(tmp_path):
    schema = Schema.infer(frame := leaky(), [Task("ctr", "click")])
    data = recmtl.prepare(schema, frame, test=frame.head(500), out=tmp_path / "p")
    description = describe(tmp_path / "p")
    assert description.to_dict() == describe(data).to_dict()
    assert list(description.leaks["column"]) == ["noisy"]


def test_plain_data_is_strict_json(hand):
    assert json.loads(json.dumps(hand.to_dict(), allow_nan=False)) == hand.to_dict()


def test_arguments_that_contradict_each_other(tmp_path):
    frame = leaky(100)
    with pytest.raises(DataError, match="give either a card or `labels`"):
        describe(frame, SCHEMA, labels=["click"])
    with pytest.raises(SchemaError, match=r"column 'clik' is not in .*; did you mean 'click'"):
        describe(frame, labels=["clik"])
    with pytest.raises(SchemaError, match="label 'shop' of the frame holds 7: expected 0 and 1"):
        describe(frame.assign(shop=7), labels=["shop"])
    prepared = recmtl.prepare(Schema.infer(frame, [Task("ctr", "click")]), frame)
    with pytest.raises(DataError, match="a prepared dataset brings its own card"):
        describe(prepared, test=frame)
    with pytest.raises(DataError, match="there is no file"):
        describe(tmp_path / "gone.csv")


def test_each_part_of_a_prepared_date_is_described():
    hours = np.arange(400) % 24
    frame = pd.DataFrame({"t": pd.Timestamp("2024-01-01") + pd.to_timedelta(hours, "h"), "click": hours == 3})
    schema = Schema([Timestamp("t", parts=("hour", "day"))], [Task("ctr", "click")])
    described = describe(prepare(schema, frame.astype({"click": int}), holdout=0))
    assert list(described.columns["column"]) == ["t.hour", "t.day"]
    assert list(described.leaks["column"]) == ["t.hour"]


def test_a_value_that_is_not_a_date_is_an_error():
    frame = pd.DataFrame({"t": ["2024-01-01", "never"], "click": [0, 1]})
    with pytest.raises(DataError, match="row 2, column 't': 'never' is not an ISO 8601 date"):
        describe(frame, Schema([Timestamp("t")], [Task("ctr", "click")]))


def test_labels_of_each_file(tmp_path):
    schema = Schema([Numeric("x")], [Task("t", "y")])
    for name, labels in {"a": [0, 1, 1], "b": [], "c": [0, 0, 0, 1, None]}.items():
        pd.DataFrame({"x": 1.5, "y": pd.array(labels, "Int64")}).to_csv(tmp_path / f"{name}.csv", index=False)
    found = describe(tmp_path / "[abc].csv", schema, test=tmp_path / "a.csv")
    assert by(found.labels, "split")["train"] == {"task": "t", "rows": 7, "positives": 3, "mean": pytest.approx(3 / 7)}
    assert by(found.files, "split", "file") == {
        (split, str(tmp_path / f"{name}.csv")): {"task": "t", "rows": rows, "positives": positives, "mean": mean}
        for split, name, rows, positives, mean in (
            ("train", "a", 3, 2, pytest.approx(2 / 3)),
            ("train", "c", 4, 1, 0.25),
            ("test", "a", 3, 2, pytest.approx(2 / 3)),
        )
    }
    assert describe(tmp_path / "c.csv", schema, test=tmp_path / "a.csv").files.empty  # the table of labels has them
    (tmp_path / "d.csv").write_text("x,y\n1,0\n1,2\n")
    with pytest.raises(DataError, match=r"d\.csv, line 3, column 'y': '2' is not a binary label"):
        describe(tmp_path, schema)


def test_bad_rows_are_left_out_and_counted(tmp_path):
    lines = ["city,price,click", "x,1,1", "y,much,0", "x,2", "z,3,2", "y,4,0"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    schema = Schema([Categorical("city"), Numeric("price")], [Task("ctr", "click")])
    with pytest.raises(DataError, match=r"a\.csv, line 4: 2 columns, expected 3"):
        describe(tmp_path / "a.csv", schema)
    found = describe(tmp_path / "a.csv", schema, bad_rows="skip")
    assert by(found.numbers, "column")["price"]["highest"] == 4
    assert by(found.labels, "split", "task")["train", "ctr"]["rows"] == 2
    assert found.notes[0] == "3 bad rows were left out"
    assert "line 3, column 'price': 'much' is not a number" in found.notes[1]


def test_a_notebook_shows_tables_and_repr_a_line():
    description = describe(leaky().rename(columns={"noisy": "<b>"}), labels=["click"])
    assert repr(description) == "Description(3 columns; 1 warning; 0 notes)"
    shown = description._repr_html_()
    assert "<li>column &#x27;&lt;b&gt;&#x27; alone separates label" in shown
    assert "<b>" not in shown
    folded = ("leaks", "columns", "values", "numbers", "labels", "files")
    assert [name for name in folded if f"<strong>{name}</strong>" in shown] == [*folded[:-1]]  # no files
    assert shown.index("Warnings") < shown.index("2,000 train rows; 3 columns: 1 categorical, 2 numeric")


def test_large_numbers_keep_their_whole_part(tmp_path, capsys):
    rows = pd.DataFrame({"year": np.arange(1990, 2024), "income": np.arange(34) * 1002, "click": np.arange(34) % 2})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    assert main(["describe", str(tmp_path / "rows.csv"), "--label", "click", "--kind", "year=numeric"]) == 0
    shown = capsys.readouterr().out
    assert {"1990", "2023", "33066"} <= set(shown.split())
    html = describe(rows, labels=["click"], kinds={"year": "numeric"})._repr_html_()
    assert all(f"<td>{number}</td>" in html for number in ("1990", "2023", "33066"))
    assert "e+0" not in shown + html


def test_columns_that_cannot_be_read_or_decided_are_noted():
    frame = pd.DataFrame(
        {"s": [{"a": 1}] * 300, "n": [*map(str, range(299)), "many"], "c": list("abc") * 100, "y": [0, 1] * 150}
    )
    found = describe(frame, labels=["y"])
    column = by(found.columns, "column")["n"]
    assert (column["kind"], column["reason"]) == (
        "undecided",
        "numbers in 99.7% of its rows, and text such as 'many' in others",
    )
    assert found.notes[0] == "left out: s (values of type struct<a: int64>)"
    assert found.warnings[0].startswith("column 'n' holds numbers in 99.7% of its rows")
    with pytest.raises(DataError, match="give either a card or `drop`"):
        describe(frame, SCHEMA, drop=["n"])
    said = by(describe(frame, labels=["y"], kinds={"n": "categorical"}, drop=["c"]).columns, "column")
    assert [said[name]["kind"] for name in ("n", "c")] == ["categorical", "left out"]


@pytest.mark.parametrize("form", ["frame", "a.csv"])
def test_infinite_values_are_counted_and_noted(tmp_path, form):
    rows = 200
    frame = pd.DataFrame(
        {
            "x": np.arange(rows) / 7,
            "few": np.arange(rows) % 5 * 1.0,
            "ts": 1_600_000_000.0 + np.arange(rows) * 50_000,
            "w": 1.0 + np.arange(rows) % 3,
            "y": np.arange(rows) % 2 * 1.0,
        }
    )
    frame.loc[[3, 50], "x"] = [np.inf, -np.inf]
    frame.loc[7, ["few", "ts", "w", "y"]] = np.inf
    data = frame
    if form == "a.csv":
        data = tmp_path / form
        frame.to_csv(data, index=False)
    found = describe(data, labels=["y"], weight="w", test=frame[:5])
    columns = by(found.columns, "column")
    error = "an error when data is prepared; `--bad_rows skip` leaves such rows out"
    assert columns["x"]["reason"] == f"198 distinct numbers, from 0 to 28.4286; infinite in 2 rows: {error}"
    assert columns["few"]["reason"] == "5 distinct whole numbers; infinite in 1 row: a category of its own"
    assert columns["ts"]["reason"].endswith(f"; infinite in 1 row: {error}")
    assert columns["x"]["missing"] == 2 / rows
    noted = [warning.split(", counted")[0] for warning in found.warnings if "infinite" in warning]
    assert sorted(noted) == [
        *(f"column {name!r} has an infinite value in 1 of 200 train rows" for name in ("ts", "w")),
        "column 'x' has an infinite value in 1 of 5 test rows",
        "column 'x' has an infinite value in 2 of 200 train rows",
        "column 'y' has an infinite value in 1 of 200 train rows",
    ]
    schema = Schema([recmtl.Numeric("x")], [Task("t", "y")])
    said = "inf is not a finite number: at least 2 rows have an infinite one; leave out such rows"
    with pytest.raises(recmtl.DataError, match=said) as error:
        recmtl.prepare(schema, frame.assign(y=0))
    assert "drop the column" in str(error.value)
    with pytest.raises(recmtl.DataError, match="at least 1 row has an infinite one") as error:
        recmtl.prepare(schema, frame.assign(x=0))
    assert "drop the column" not in str(error.value)
    assert recmtl.prepare(schema, frame, bad_rows="skip").notes[0] == "3 bad rows were left out"
