"""Each column that a user may have, from a CSV, a Parquet file and a DataFrame: a result, or one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recmtl
from recmtl.cli.main import main

ROWS = 300
FORMS = ("csv", "parquet", "frame")
RNG = np.random.default_rng(0)
SMALL = ["--trainer.epochs", "1", "--trainer.run.progress", "false", "--trainer.run.device", "cpu"]
SMALL += ["--model", "SharedBottom", "--model.layers", "[4]"]
NUMBERS = RNG.normal(size=ROWS).round(3)


def with_column(values: Any) -> pd.DataFrame:
    """Return rows with a column `x`, beside a feature that is always there."""
    return pd.DataFrame({"x": values, "city": list("abc") * (ROWS // 3), "click": np.arange(ROWS) % 2})


def train(
    frame: pd.DataFrame, form: str, place: Path, *options: str, test: pd.DataFrame | None = None
) -> dict[str, str]:
    """Train on rows and measure them; return the kind of each feature, or raise what went wrong."""
    test = frame if test is None else test
    if form == "frame":
        kinds: Any = dict(option.split("=") for option in options[1::2])
        schema = recmtl.Schema.infer(frame, ["click"], kinds=kinds)
        data = recmtl.prepare(schema, frame, test=test)
        torch.manual_seed(0)
        run = recmtl.RunConfig(progress=False, device="cpu")
        trainer = recmtl.Trainer(recmtl.SharedBottom(data.schema, layers=[4]), epochs=1, run=run)
        assert trainer.fit(data.train, data.valid).evaluate(data.test)["logloss"].notna().all()
        return {f.name: type(f).__name__ for f in schema.features}
    for name, rows in {"train": frame, "test": test}.items():
        path = place / f"{name}.{form}"
        rows.to_csv(path, index=False) if form == "csv" else rows.to_parquet(path)
    files = ["--data.train", str(place / f"train.{form}"), "--data.test", str(place / f"test.{form}")]
    run_folder = place / form
    assert main(["train", *SMALL, *files, "--label", "click", *options, "--run", str(run_folder)]) == 0
    return {f.name: type(f).__name__ for f in recmtl.load_run(run_folder).model.schema.schema.features}


READ: dict[str, tuple[Any, str | None]] = {
    "constant": ([7.5] * ROWS, None),
    "two values": (RNG.choice([0.5, 2.5], ROWS), "Numeric"),
    "two whole values": (RNG.choice([3, 9], ROWS), "Categorical"),
    "missing": ([None] * ROWS, None),
    "missing floats": ([np.nan] * ROWS, None),
    "one value or none": ([7.5, None] * (ROWS // 2), "Categorical"),
    "huge": (NUMBERS * 1e300, "Numeric"),
    "mostly missing": ([*NUMBERS[:30], *[None] * (ROWS - 30)], "Numeric"),
    "row numbers": (np.arange(ROWS), None),
    "shuffled row numbers": (RNG.permutation(ROWS), None),
    "booleans": ([True, False, None] * (ROWS // 3), "Categorical"),
    "words for missing": ([str(v) if i % 9 else "n/a" for i, v in enumerate(NUMBERS)], "Numeric"),
    "zip": ([f"{i % 40:05d}" for i in range(ROWS)], "Categorical"),
    "large ids": ([2**62 + i % 40 for i in range(ROWS)], "Categorical"),
    "unix": (1_700_000_000 + RNG.integers(0, 10**6, ROWS), "Timestamp"),
    "dates": (pd.date_range("2020-01-01", periods=ROWS), "Timestamp"),
    "unique text": ([f"name {i}" for i in range(ROWS)], None),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", READ)
def test_a_column_is_read(name: str, form: str, tmp_path: Path) -> None:
    values, kind = READ[name]
    expected = {"city": "Categorical"} | ({} if kind is None else {"x": kind})
    assert train(with_column(values), form, tmp_path) == expected


REFUSED: dict[str, tuple[Any, str]] = {
    "infinity": ([*NUMBERS[:-1], np.inf], "inf is not a finite number"),
    "a word": ([*map(str, NUMBERS[:-1]), "many"], "numbers in 99.7% of its rows, and text such as 'many' in others"),
    "thousands": ([f"{i * 7},{i % 10}00" for i in range(1, ROWS + 1)], "a decimal comma or separators of thousands"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", REFUSED)
def test_a_column_is_refused_in_one_sentence_and_can_be_left_out(
    name: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values, message = REFUSED[name]
    frame = with_column(values)
    if form == "frame":
        with pytest.raises((recmtl.DataError, recmtl.SchemaError)) as error:
            train(frame, form, tmp_path)
        said = str(error.value)
    else:
        with pytest.raises(AssertionError):
            train(frame, form, tmp_path)
        said = capsys.readouterr().err
        assert said.startswith("recmtl: ")
    assert message in said
    assert said.strip().count("\n") == 0
    assert train(frame, form, tmp_path, "--kind", "x=drop") == {"city": "Categorical"}


@pytest.mark.parametrize("option", ["--null", "--data.nulls"])
def test_a_word_for_a_missing_number(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = with_column([str(v) if i % 9 else "[unknown]" for i, v in enumerate(NUMBERS)])
    given = [option, "[unknown]" if option == "--null" else '["[unknown]"]']
    assert train(frame, "csv", tmp_path, *given) == {"x": "Numeric", "city": "Categorical"}
    schema = recmtl.load_run(tmp_path / "csv").model.schema.schema
    assert schema.nulls == ("[unknown]",)
    assert "were left out" not in capsys.readouterr().err
    assert recmtl.load_run(tmp_path / "csv").predict(tmp_path / "test.csv").notna().all(axis=None)


def test_describe_and_prepare_take_a_word_for_a_missing_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = with_column([str(v) if i % 9 else "unknown" for i, v in enumerate(NUMBERS)])
    frame.to_csv(tmp_path / "a.csv", index=False)
    said = ["--label", "click", "--null", "unknown", "--null=-999"]
    assert main(["describe", str(tmp_path / "a.csv"), *said, "--out", str(tmp_path / "card.yaml")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "│ x │ numeric │" in out
    assert "11.33%" in out
    assert recmtl.Schema.load(tmp_path / "card.yaml").nulls == ("unknown", "-999")
    assert main(["prepare", "--train", str(tmp_path / "a.csv"), *said, "--out", str(tmp_path / "data")]) == 0
    data = recmtl.PreparedData.open(tmp_path / "data")
    assert data.schema.schema.nulls == ("unknown", "-999")
    assert 0 < data.schema.missing["x"] < 0.2
    card = ["--card", str(tmp_path / "card.yaml"), "--null", "unknown", "--out", str(tmp_path / "other")]
    assert main(["prepare", "--train", str(tmp_path / "a.csv"), *card]) == 2
    assert "leave out `nulls`" in capsys.readouterr().err


BARE = ["--header", "x,city,click", "--separator", r"\x01", "--decimal", ","]
HEADED = ["--header", "[]", "--separator", ",", "--decimal", "."]  # how the same rows are read from `test.csv`


def test_train_predict_and_evaluate_read_text_as_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run keeps how its training rows were read; other files may say otherwise, and give the same predictions."""
    frame, bare = with_column(NUMBERS), str(tmp_path / "bare.csv")
    frame.to_csv(bare, index=False, header=False, sep="\x01", decimal=",")
    frame.to_csv(tmp_path / "test.csv", index=False)
    run, plain = str(tmp_path / "run"), str(tmp_path / "test.csv")
    assert main(["train", *SMALL, "--data.train", bare, "--label", "click", *BARE, "--run", run]) == 0
    schema = recmtl.load_run(run).model.schema.schema
    assert (schema.header, schema.separator, schema.decimal) == (("x", "city", "click"), "\x01", ",")
    assert [type(f).__name__ for f in schema.features] == ["Numeric", "Categorical"]
    found = []
    for rows, said in ((bare, []), (plain, HEADED)):
        out = tmp_path / f"{len(found)}.parquet"
        assert main(["predict", run, "--rows", rows, "--out", str(out), *said]) == 0
        assert main(["evaluate", run, "--rows", rows, "--draws", "0", "--json", *said]) == 0
        found.append(pd.read_parquet(out))
    pd.testing.assert_frame_equal(*found)
    found[1].to_csv(tmp_path / "p.csv", index=False)
    schema.save(tmp_path / "card.yaml")
    capsys.readouterr()
    given = ["evaluate", "--predictions", str(tmp_path / "p.csv"), "--card", str(tmp_path / "card.yaml")]
    assert main([*given, "--draws", "0", *HEADED]) == 0
    assert main(["predict", run, "--rows", plain, "--out", str(tmp_path / "2.csv"), "--decimal", "."]) == 2
    assert "test.csv, line 1" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["describe", "prepare"])
def test_describe_and_prepare_take_how_text_is_read(command: str, tmp_path: Path) -> None:
    path, card, data = (str(tmp_path / name) for name in ("bare.csv", "card.yaml", "data"))
    with_column(NUMBERS).to_csv(path, index=False, header=False, sep="~", decimal=",")
    said = ["--label", "click", "--header", "x", "--header", "city,click", "--separator", "~", "--decimal", ","]
    files = [path, "--out", card] if command == "describe" else ["--train", path, "--out", data]
    assert main([command, *files, *said]) == 0
    schema = recmtl.Schema.load(card) if command == "describe" else recmtl.PreparedData.open(data).schema.schema
    assert (schema.header, schema.separator, schema.decimal) == (("x", "city", "click"), "~", ",")


@pytest.mark.parametrize("form", FORMS)
def test_values_beyond_those_of_the_training_rows(form: str, tmp_path: Path) -> None:
    """Far numbers, new categories and times, and missing values where none was."""
    test = with_column(NUMBERS * 1e30).assign(city="new")
    test.loc[::2, "x"] = np.nan
    assert train(with_column(NUMBERS), form, tmp_path, test=test) == {"x": "Numeric", "city": "Categorical"}


@pytest.mark.parametrize("form", FORMS)
def test_a_word_says_what_a_column_is(form: str, tmp_path: Path) -> None:
    frame = with_column(RNG.choice([3, 9, 12], ROWS))
    for kind, feature in {"numeric": "Numeric", "binned": "Binned", "categorical": "Categorical"}.items():
        (tmp_path / kind).mkdir()
        assert train(frame, form, tmp_path / kind, "--kind", f"x={kind}")["x"] == feature


def test_rows_that_do_not_fit_can_be_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = with_column([*map(str, NUMBERS[:-1]), "many"])
    options = ["--kind", "x=numeric", "--bad_rows", "skip"]
    assert train(frame, "csv", tmp_path, *options)["x"] == "Numeric"
    assert "line 301, column 'x': 'many' is not a number" in capsys.readouterr().err
