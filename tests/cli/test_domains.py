"""Metrics by domain: of `train`, `evaluate`, predictions of any library, and the report."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.evaluate import binary_metrics, domain_metrics, domain_scores

METRICS = ["auc", "logloss", "calibration", "rmse", "r2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("domains")
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"item": rng.integers(0, 9, 400), "country": rng.choice(["US", "NL"], 400, p=[0.7, 0.3])})
    rows["click"] = (rng.uniform(size=400) < 0.2 + 0.05 * rows["item"]).astype(int)
    rows["stay"] = rng.normal(size=400)
    rows.to_csv(folder / "train.csv", index=False)
    test = rows.head(120).assign(country=lambda f: f["country"].where(np.arange(120) != 3, "JP"))
    test.to_csv(folder / "test.csv", index=False)
    return folder


def options(run: Path, **others: object) -> list[str]:
    named = {"data.train": run / "train.csv", "data.test": run / "test.csv", "domain": "country", "run": run / "run"}
    more = {"model": "SharedBottom", "trainer.epochs": 1, "trainer.run.tensorboard": False, **others}
    return [word for name, value in (named | more).items() for word in (f"--{name}", str(value))]


def test_train_evaluate_and_report(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    labels = ["--label", "click", "--label", "stay", "--kind", "item=categorical"]
    assert main(["train", *options(run, **{"trainer.balance_domains": "true"}), *labels]) == 0
    out = capsys.readouterr().out
    assert "test rows by country" in out
    (head,) = (line for line in out.splitlines() if "domain" in line and "rows" in line and "auc" in line)
    assert head.replace("┃", " ").split() == ["task", "domain", "rows", "positives", *METRICS]
    lines = [line.split("│")[1:5] for line in out.splitlines() if line.startswith("│ click")]
    assert [[cell.strip() for cell in line][:3] for line in lines[:3]] == [
        ["click", "US", "72"],
        ["click", "NL", "47"],
        ["click", "JP", "1"],
    ]
    stored = json.loads((run / "run" / "metrics.json").read_text())["domains"]["test"]
    assert stored["click"]["JP"]["auc"] is None
    assert set(stored["stay"]["US"]) >= {"rmse", "r2", "rows"}
    assert main(["evaluate", str(run / "run"), "--rows", str(run / "test.csv"), "--draws", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["click"]["domains"]["US"] == stored["click"]["US"]
    assert main(["evaluate", str(run / "run"), "--rows", str(run / "test.csv"), "--draws", "0"]) == 0
    assert "by country" in capsys.readouterr().out
    assert main(["report", str(run / "run"), "--out", str(tmp_path / "report.html"), "--draws", "0"]) == 0
    assert "By country" in (tmp_path / "report.html").read_text()


def test_are_those_of_the_rows_of_a_domain(tmp_path: Path) -> None:
    """Of 30 domains that are numbers, each is measured by itself."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"market": rng.integers(0, 30, 900), "click": rng.integers(0, 2, 900), "ctr": rng.random(900)})
    schema = recmtl.Schema([recmtl.Categorical("market")], [recmtl.Task("ctr", "click")], domain="market")
    frame.to_parquet(tmp_path / "predictions.parquet")
    predictions = recmtl.Predictions.read(schema, tmp_path / "predictions.parquet")
    found = domain_metrics(domain_scores(predictions))["ctr"]
    assert len(found) == 30
    for market, rows in frame.groupby("market"):
        expected = binary_metrics(rows["click"].to_numpy(float), rows["ctr"].to_numpy())
        assert found[str(market)].values["auc"] == expected.values["auc"]
        assert found[str(market)].rows == len(rows)
    without = recmtl.Predictions.read(schema, tmp_path / "predictions.parquet")
    assert (
        domain_scores(recmtl.Predictions(schema, without.values, without.labels, None, without.keys.select([]))) == {}
    )
