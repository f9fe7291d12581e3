"""Options that say that files were thinned, from generated files to metrics."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main

SMALL = ["--trainer.epochs", "1", "--trainer.run.device", "cpu", "--trainer.run.progress", "false"]
RATE = ["--negative_rate", "0.1", "--negative_label", "click"]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thinned training rows and all test rows, in the folder in which commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ["--rows", "6000", "--click_rate", "0.2", "--conversion_rate", "0.3", "--negative_rate", "0.1"]
    assert main(["synth", "--out", "rows", *options, "--thinned", "train", "--thinned", "valid"]) == 0


def measured(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, float]]:
    capsys.readouterr()
    assert main(["evaluate", *arguments, "--json", "--draws", "0"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("rows")
def test_a_run_on_thinned_rows_predicts_for_all_rows(capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--data.train", "rows/train.csv", "--data.valid", "rows/valid.csv", "--data.test", "rows/test.csv"]
    thinned = [*RATE, "--thinned", "train", "--thinned", "valid"]
    assert main(["train", "--config", "demo", *files, *thinned, *SMALL, "--run", "run"]) == 0
    predicted = pd.read_parquet("run/predictions/test.parquet")
    assert "sampling_weight" not in predicted  # the test file was not thinned
    np.testing.assert_allclose(predicted.ctr * predicted.cvr, predicted.ctcvr, atol=1e-6)
    own = json.loads(Path("run/metrics.json").read_text())["test"]["ctr"]["logloss"]
    assert measured(["run", "--rows", "rows/test.csv"], capsys)["ctr"]["logloss"] == pytest.approx(own)
    valid = ["run", "--rows", "rows/valid.csv"]
    click = pd.read_csv("rows/valid.csv").click
    p = recmtl.load_run("run").predict("rows/valid.csv").ctr.to_numpy()
    weight = np.where(click == 1, 1, 10)
    losses = -np.log(np.where(click == 1, p, 1 - p))
    assert measured(valid, capsys)["ctr"]["logloss"] == pytest.approx(losses.mean(), rel=1e-5)
    whole = np.average(losses, weights=weight)
    assert main(["evaluate", *valid, "--draws", "0"]) == 0
    assert "if they were thinned too, give `--negative_rate 0.1 --negative_label click`" in capsys.readouterr().err
    assert measured([*valid, *RATE], capsys)["ctr"]["logloss"] == pytest.approx(whole, rel=1e-5)
    assert "thinned too" not in capsys.readouterr().err
    assert main(["predict", *valid, "--out", "p.csv", *RATE]) == 0
    np.testing.assert_allclose(pd.read_csv("p.csv").sampling_weight, weight)
    pd.read_csv("rows/valid.csv").drop(columns="click").to_csv("unlabelled.csv", index=False)
    assert main(["predict", "run", "--rows", "unlabelled.csv", "--out", "q.csv", *RATE]) == 2
    assert "'unlabelled.csv' has no column 'click'" in capsys.readouterr().err


@pytest.mark.usefixtures("rows")
def test_a_prepared_dataset_says_itself_how_it_was_thinned(capsys: pytest.CaptureFixture[str]) -> None:
    prepare = ["prepare", "--card", "aliexpress", "--train", "rows/train.csv", "--test", "rows/test.csv"]
    assert main([*prepare, "--out", "data", *RATE]) == 0
    assert "rows without click are taken as kept at the rate 0.1 in train, valid" in " ".join(
        capsys.readouterr().err.split()
    )
    data = recmtl.PreparedData.open("data")
    assert [name for name, split in data.splits.items() if split.thinning] == ["train", "valid"]
    assert main(["train", "--config", "demo", "--data.train", "data", *RATE, *SMALL, "--run", "run"]) == 2
    assert "say `negative_rate` when it is prepared" in " ".join(capsys.readouterr().err.split())


def test_labels_or_files_without_a_rate_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for option in (["--negative_label", "click"], ["--thinned", "test"]):
        assert main(["prepare", "--train", "rows.csv", "--out", str(tmp_path / "data"), *option]) == 2
        assert "to say that files were thinned, give `negative_rate`" in " ".join(capsys.readouterr().err.split())
    assert main(["train", "--data.train", "rows.csv", "--negative_rate"]) == 2
    assert "`--negative_rate` needs a number" in " ".join(capsys.readouterr().err.split())


def test_predictions_of_a_thinned_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = tmp_path / "card.yaml"
    card.write_text("features:\n- {numeric: x}\ntasks:\n- {name: ctr, label: click}\n")
    pd.DataFrame({"click": [1, 0, 0], "ctr": [0.5, 0.1, 0.3]}).to_csv(tmp_path / "p.csv", index=False)
    given = ["--predictions", str(tmp_path / "p.csv"), "--card", str(card)]
    found = measured([*given, "--negative_rate", "0.1"], capsys)["ctr"]["logloss"]
    assert found == pytest.approx(-(np.log(0.5) + 10 * np.log(0.9) + 10 * np.log(0.7)) / 21)
