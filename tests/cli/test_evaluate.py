"""`recmtl evaluate` and `recmtl predict`, on runs and on predictions of any other library."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import recmtl
from recmtl.cli.console import print_metrics
from recmtl.cli.main import main
from recmtl.evaluate import Metrics, auc_interval, bootstrap_intervals, prediction_files

CARD = """
features:
- {numeric: x}
tasks:
- {name: ctr, label: click}
- {name: cvr, label: buy, given: click}
- {name: time, label: stay, kind: regression}
group: search
"""


@pytest.fixture
def frame() -> pd.DataFrame:
    """What some library predicted: CVR on clicked rows alone."""
    rng = np.random.default_rng(0)
    click = rng.integers(0, 2, 400)
    buy = click * rng.integers(0, 2, 400)
    return pd.DataFrame(
        {
            "search": rng.integers(0, 90, 400),
            "click": click,
            "label_buy": buy,
            "ctr": np.clip(0.3 * click + rng.uniform(0, 0.7, 400), 0, 1),
            "cvr": np.where(click, rng.uniform(size=400), np.nan),
        }
    )


@pytest.fixture
def card(tmp_path: Path) -> str:
    (tmp_path / "card.yaml").write_text(CARD)
    return str(tmp_path / "card.yaml")


def evaluate(frame: pd.DataFrame, card: str, *options: str, suffix: str = "parquet") -> int:
    file = Path(card).parent / f"predictions.{suffix}"
    frame.to_parquet(file) if suffix == "parquet" else frame.to_csv(file, index=False)
    return main(["evaluate", "--predictions", str(file), "--card", card, *options])


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_predictions_of_any_library(
    frame: pd.DataFrame, card: str, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(frame, card, "--json", "--draws", "20", suffix=suffix) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["ctr", "cvr"]
    clicked = frame[frame.click == 1]
    assert found["ctr"]["auc"] == pytest.approx(roc_auc_score(frame.click, frame.ctr), abs=1e-12)
    assert found["cvr"]["auc"] == pytest.approx(roc_auc_score(clicked.label_buy, clicked.cvr), abs=1e-12)
    schema = recmtl.Schema.load(card)
    read = recmtl.Predictions.read(schema, Path(card).parent / f"predictions.{suffix}").scores()
    for task, scores in read.items():
        assert found[task]["independent"] == "search"
        delong, drawn = auc_interval(scores), bootstrap_intervals(scores, draws=20)
        assert found[task]["intervals"]["auc"] == [delong.low, delong.high]
        assert found[task]["intervals"]["logloss"] == [drawn["logloss"].low, drawn["logloss"].high]


def test_the_table_has_intervals_and_names_what_they_assume_independent(
    frame: pd.DataFrame, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(frame, card, "--draws", "0") == 0
    said = capsys.readouterr().out
    auc = next(line for line in said.splitlines() if line.startswith("│ auc"))
    assert auc.count("[") == 2
    assert not any("[" in line for line in said.splitlines() if "logloss" in line)
    assert "95 % intervals: groups of search are independent, the rows of one need not be" in said
    assert evaluate(frame.drop(columns="search"), card, "--draws", "0") == 0
    said = capsys.readouterr().out
    assert "95 % intervals take rows for independent: there is no column 'search', the card's group" in said


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("ctr", 1.5, "column 'ctr', row 4: expected a probability in [0, 1], got 1.5 (rows: 1)"),
        ("ctr", -0.1, "column 'ctr', row 4: expected a probability in [0, 1], got -0.1 (rows: 1)"),
        ("ctr", np.nan, "column 'ctr', row 4: expected a probability in [0, 1], got no value (rows: 1)"),
        ("click", 2, "label 'click', row 4: expected 0, 1 or no value, got 2 (rows: 1)"),
    ],
)
def test_bad_values_are_one_line(
    frame: pd.DataFrame, card: str, capsys: pytest.CaptureFixture[str], column: str, value: float, said: str
) -> None:
    frame.loc[3, column] = value
    assert evaluate(frame, card) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"predictions.parquet, {said}")


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["click"], "has no label 'click': expected a column 'click' or 'label_click'"),
        (["ctr", "cvr"], "has no predictions: expected a column named ctr, cvr, time"),
    ],
)
def test_missing_columns_are_one_line(
    frame: pd.DataFrame, card: str, capsys: pytest.CaptureFixture[str], gone: list[str], said: str
) -> None:
    assert evaluate(frame.drop(columns=gone), card) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either a run and `--rows`, or `--predictions` and `--card`"),
        (["run"], "give either a run and `--rows`, or `--predictions` and `--card`"),
        (["run", "--rows", "f.csv", "--card", "aliexpress"], "give either a run"),
        (["--predictions", "f.parquet"], "give either a run"),
        (["--predictions", "f.parquet", "--card", "aliexpress"], "there is no file 'f.parquet'"),
        (["--predictions", "f.parquet", "--card", "aliexpress", "--draws", "1"], "`--draws` must be 0 or at least 2"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_predict_writes_the_labels_that_the_rows_have(
    csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    options = ["--model.layers", "[4]", "--trainer.epochs", "1", "--trainer.run.progress", "false", "--run", run]
    assert main(["train", "--data.card", "aliexpress", "--data.train", f"{csv}/train.csv", *options]) == 0
    rows = pd.read_csv(csv / "test.csv")
    for gone, labels in (([], ["click", "conversion"]), (["conversion"], ["click"]), (["click", "conversion"], [])):
        rows.drop(columns=gone).to_csv(tmp_path / "rows.csv", index=False)
        out = tmp_path / f"{len(labels)}.parquet"
        assert main(["predict", run, "--rows", str(tmp_path / "rows.csv"), "--out", str(out)]) == 0
        found = pd.read_parquet(out)
        assert list(found) == ["search_id", *(f"label_{name}" for name in labels), "ctr", "cvr", "ctcvr"]
        for name in labels:
            assert list(found[f"label_{name}"]) == list(rows[name])
    measured = []
    for suffix in (".parquet", ".csv", ".feather"):
        out = tmp_path / f"all{suffix}"
        assert main(["predict", run, "--rows", f"{csv}/test.csv", "--out", str(out)]) == 0
        capsys.readouterr()
        assert main(["evaluate", "--predictions", str(out), "--card", "aliexpress", "--draws", "20", "--json"]) == 0
        measured.append(json.loads(capsys.readouterr().out))
    assert measured[0] == measured[1] == measured[2]
    assert (tmp_path / "all.csv").read_text().startswith('"search_id","label_click"')
    for name, said in (("x", "names no format: give it one of the suffixes .parquet"), ("all.csv", "exists already")):
        assert main(["predict", run, "--rows", f"{csv}/test.csv", "--out", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("weight", [np.nan, -1.0, np.inf])
def test_an_invalid_weight_is_refused(
    frame: pd.DataFrame, card: str, weight: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path(card).open("a") as file:
        file.write("weight: w\n")
    assert evaluate(frame.assign(w=2.0), card, "--draws", "0") == 0
    assert evaluate(frame.assign(w=np.where(frame.index == 3, weight, 2.0)), card) == 2
    finite, other = (
        "row 4, column 'w': inf is not a finite number",
        "column 'w', row 4: expected a weight of at least 0",
    )
    said = finite if weight == np.inf else other
    assert said in capsys.readouterr().err


def test_ambiguous_columns_are_refused(frame: pd.DataFrame, card: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(pd.concat([frame, frame[["ctr"]]], axis=1), card, suffix="csv") == 2
    assert "predictions.csv has the column 'ctr' twice" in capsys.readouterr().err
    assert evaluate(frame.assign(search=[[1, 2]] * len(frame)), card) == 2
    assert "column 'search' must have one value per row, got list<" in capsys.readouterr().err


def test_rows_are_grouped_by_the_column_asked_for(
    frame: pd.DataFrame, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frame["user"] = np.arange(400) // 4
    found = []
    for options in (["--group", "user", "--k", "3"], []):
        given = frame if options else frame.assign(search=frame.user)
        assert evaluate(given, card, "--json", "--draws", "0", *options) == 0
        found.append(json.loads(capsys.readouterr().out)["ctr"])
    by_user, by_search = found
    assert by_user["independent"] == "user"
    assert by_user["gauc"] == by_search["gauc"]
    assert by_user["intervals"] == by_search["intervals"]
    assert by_user["groups"] == 100 > by_user["groups_left_out"]
    assert {"ndcg@3", "recall@3"} < set(by_user)
    assert evaluate(frame, card, "--group", "nobody") == 2
    said = "rows cannot be grouped by 'nobody': the key columns are 'search'"
    assert said in capsys.readouterr().err


def test_metrics_of_any_cutoff_have_intervals(
    frame: pd.DataFrame, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(frame, card, "--json", "--draws", "20", "--k", "3") == 0
    found = json.loads(capsys.readouterr().out)["ctr"]
    for name in ("ndcg@3", "recall@3"):
        low, high = found["intervals"][name]
        assert low < found[name] < high


def test_predictions_that_memory_does_not_hold(
    frame: pd.DataFrame, card: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that are alike take next to nothing in a file: they are counted before they are read."""
    rows, columns = frame.shape
    size = 8 * rows * columns
    monkeypatch.setattr(prediction_files, "available_memory", lambda: size)
    assert evaluate(frame, card, "--draws", "0") == 0
    monkeypatch.setattr(prediction_files, "available_memory", lambda: size - 1)
    assert evaluate(frame, card, "--draws", "0") == 2
    file = Path(card).parent / "predictions.parquet"
    said = f"recmtl: {file} cannot be read: its rows need at least {size:,} bytes, but {size - 1:,} are free\n"
    assert capsys.readouterr().err == said


def test_a_reason_of_several_tasks_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    reasons = {"ctr": "hits raised KeyError: 1", "cvr": "no rows", "ctcvr": "hits raised KeyError: 1"}
    print_metrics({task: Metrics({"auc": None}, 5, reason=text) for task, text in reasons.items()}, "rows")
    assert capsys.readouterr().out.splitlines()[-2:] == ["ctr, ctcvr: hits raised KeyError: 1", "cvr: no rows"]
