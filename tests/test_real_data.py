"""Real rows, where they are at hand: the layout, real strings, skewed values and rare labels."""

import json
from pathlib import Path

import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.evaluate import metric_names


def test_aliexpress_sample_trains(real_data: Path, tmp_path: Path) -> None:
    folder, run = real_data / "aliexpress_sample", tmp_path / "run"
    arguments = ["--data.train", str(folder / "train.csv"), "--data.test", str(folder / "test.csv")]
    quick = ["--trainer.epochs", "2", "--trainer.run.progress", "false", "--run", str(run)]
    assert main(["train", "--config", "aliexpress_mmoe", *arguments, *quick]) == 0
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert test["ctr"]["rows"] == 20
    for task in test.values():
        assert any(task[name] is None for name in metric_names("binary", grouped=True)) == ("reason" in task)


def test_census_income_trains(real_data: Path, tmp_path: Path) -> None:
    folder, run = real_data / "census_income", tmp_path / "run"
    arguments = [
        "--data.train",
        str(folder / "census_train.csv.gz"),
        "--data.test",
        str(folder / "census_valid.csv.gz"),
    ]
    quick = ["--trainer.epochs", "2", "--trainer.run.progress", "false", "--run", str(run)]
    assert main(["train", "--config", "census_mmoe", *arguments, *quick]) == 0
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert test["income"]["rows"] == 14_964
    assert test["income"]["auc"] > 0.9
    assert test["never_married"]["auc"] > 0.98


def test_census_schema_can_be_inferred(real_data: Path) -> None:
    tasks = [recmtl.Task("income", "income"), recmtl.Task("never_married", "never_married")]
    inferred = recmtl.Schema.infer(real_data / "census_income" / "census_train.csv.gz", tasks)
    names = {f.name for f in inferred.features}
    assert names == {f.name for f in recmtl.card("census_income").features} | {"instance_weight"}


@pytest.mark.parametrize("name", ["train.csv", "test.csv"])
def test_the_card_fits_the_real_header(real_data: Path, name: str) -> None:
    data = recmtl.prepare(recmtl.card("aliexpress"), real_data / "aliexpress_sample" / name, holdout=0.0)
    assert (data.schema.id_columns, len(data.schema.numeric)) == (16, 63)
