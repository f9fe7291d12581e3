"""Metrics of the user's own, beside recmtl's: values, intervals, what is undefined, monitoring, commands, and trust."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from sklearn.metrics import log_loss

import recmtl
from recmtl.cli.main import main
from recmtl.comparison.comparison import Comparison
from recmtl.comparison.grid import GridRun, Variant
from recmtl.evaluate import Scores, bootstrap_intervals, check_own, intervals_of, metrics_of, own_metrics, scores_of
from recmtl.recipe.load import load_run
from recmtl.report.runs import open_runs
from recmtl.report.tables import metric_frame
from recmtl.schema import Task

MODULE = '''
import numpy as np

def hit_rate(scores, labels, weights, groups):
    """The share of positives in the highest tenth."""
    top = np.argsort(-scores, kind="stable")[: max(1, len(scores) // 10)]
    return labels[top].mean()

def miss(scores, labels, weights, groups):
    return np.average(np.abs(scores - labels), weights=weights)

miss.higher_is_better = False

def raises(scores, labels, weights, groups):
    return 1 / 0

class Metric:
    pass
'''
CTR = Task("ctr", "click")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of metrics in the working directory."""
    (tmp_path / "own_module.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("own_module", None)


def rows(weighted: bool, grouped: bool, *functions: Any) -> Scores:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200).astype(float)
    weight = rng.uniform(0.5, 2, 200) if weighted else None
    groups = rng.integers(0, 40, 200) if grouped else None
    predictions = np.clip(0.3 * labels + rng.uniform(0, 0.7, 200), 0.01, 0.99)
    own = tuple(own_metrics({"all": functions})["all"])
    return scores_of(CTR, labels, predictions, weight, groups, own=own)


def own_logloss(scores: Any, labels: Any, weights: Any, groups: Any) -> float:
    return float(log_loss(labels, scores, sample_weight=weights))


def group_auc(scores: Any, labels: Any, weights: Any, groups: Any) -> float:
    """recmtl's `gauc`, on the rows as they are given."""
    of_rows = Scores(CTR, labels, scores, weights, groups)
    return metrics_of(of_rows, names=["gauc"]).values["gauc"] or np.nan


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
def test_an_own_metric_has_the_value_and_the_interval_of_its_twin(weighted: bool, grouped: bool) -> None:
    """Drawing rows again and again is the same as weighting them by how often they are drawn."""
    twins = {"own_logloss": (own_logloss, "logloss")} | ({"group_auc": (group_auc, "gauc")} if grouped else {})
    scores = rows(weighted, grouped, *(function for function, _ in twins.values()))
    values = metrics_of(scores).values
    names = [name for name, (_, twin) in twins.items() for name in (name, twin)]
    found = bootstrap_intervals(scores, names, draws=30)
    for name, (_, twin) in twins.items():
        assert values[name] == pytest.approx(values[twin])
        assert (found[name].low, found[name].high) == pytest.approx((found[twin].low, found[twin].high))


def test_a_metric_that_ignores_weights_varies_over_the_draws() -> None:
    def share(scores: Any, labels: Any, weights: Any, groups: Any) -> float:
        return float(labels.mean())

    interval = intervals_of(rows(False, False, share), ["share"], draws=200)["share"]
    standard_error = (interval.estimate * (1 - interval.estimate) / 200) ** 0.5
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * standard_error, rel=0.2)


def nothing(scores: Any, labels: Any, weights: Any, groups: Any) -> None:
    return None


def array(scores: Any, labels: Any, weights: Any, groups: Any) -> Any:
    return labels[:2]


def nan(scores: Any, labels: Any, weights: Any, groups: Any) -> float:
    return float("nan")


def exits(scores: Any, labels: Any, weights: Any, groups: Any) -> float:
    raise SystemExit(3)


def raises(scores: Any, labels: Any, weights: Any, groups: Any) -> float:
    raise KeyError("a\nlong  story")


def writes(scores: Any, labels: Any, weights: Any, groups: Any) -> float:
    labels[:] = 0
    return 1.0


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (nothing, "nothing must return a number, got None"),
        (array, "array must return a number, got [1. 1.]"),
        (nan, "nan returned nan"),
        (raises, "raises raised KeyError: 'a\\nlong story'"),
        (exits, "exits raised SystemExit: 3"),
        (writes, "writes raised ValueError: assignment destination is read-only"),
    ],
)
def test_what_fails_is_named_and_undefined(function: Any, reason: str) -> None:
    scores = rows(True, True, function, own_logloss)
    found = metrics_of(scores)
    name = function.__name__
    assert found.values[name] is None
    assert (found.reason or "").startswith(reason)
    assert found.values["auc"] is not None
    assert found.values["own_logloss"] == pytest.approx(found.values["logloss"])
    assert name not in bootstrap_intervals(scores, [name], draws=3)


def auc(scores: Any, labels: Any, weights: Any, groups: Any) -> float:
    return 0.0


def test_names_that_lead_nowhere(module: Path) -> None:
    other = {"ctr": [own_logloss], "all": [lambda *_: 0.0]}
    for given, said in (
        ({"all": ["own_module.hit_rat"]}, "module 'own_module' has no function 'hit_rat'; did you mean 'hit_rate'"),
        ({"all": ["nowhere.hit_rate"]}, "there is no module 'nowhere'"),
        ({"all": ["hit_rate"]}, "is named by its import path, such as `my_module.hit_rate`, got 'hit_rate'"),
        ({"all": ["own_module.Metric"]}, "an own metric must be a function with a name, got 'own_module.Metric'"),
        (other, "an own metric must be a function with a name, got <function"),
        ({"ctr": ["own_module.raises"], "all": [raises]}, "two own metrics are called 'raises': own_module.raises and"),
    ):
        with pytest.raises(ValueError, match=said.replace("(", r"\(")):
            own_metrics(given)
    with pytest.raises(ValueError, match=r"belong to a task, a kind or all of them \(ctr, binary, all\), got 'cvr'"):
        check_own(own_metrics({"cvr": [own_logloss]}), [CTR])
    with pytest.raises(ValueError, match=r"test_own_metrics.auc has the name of recmtl's metric 'auc': rename"):
        check_own(own_metrics({"ctr": [auc]}), [CTR])


def test_a_training_is_monitored_finished_compared_and_reported(
    module: Path, aliexpress: recmtl.PreparedData, capsys: pytest.CaptureFixture[str]
) -> None:
    """One is lower-is-better, one raises, and neither costs the training."""
    metrics = {"binary": ["own_module.miss", "own_module.raises"], "ctr": ["own_module.hit_rate"]}
    variants = [Variant("SharedBottom", "Sum", rate) for rate in (0.1, 0.001)]
    runs = [GridRun(variant, 0, {}) for variant in variants]
    comparison = Comparison(module / "comparison", "test", runs)
    folders = [comparison.path(run) for run in runs]
    for folder, variant in zip(folders, variants, strict=True):
        torch.manual_seed(0)
        stopping = recmtl.EarlyStopping("miss", metrics=metrics)
        rate = variant.learning_rate
        optimization = recmtl.Optimization(batch_size=256, optimizer=lambda p, lr=rate: torch.optim.SGD(p, lr=lr))
        run = recmtl.RunConfig(folder, progress=False, tensorboard=False, device="cpu")
        model = recmtl.SharedBottom(aliexpress.schema, layers=[8])
        trainer = recmtl.Trainer(model, epochs=2, optimization=optimization, stopping=stopping, run=run)
        trainer.fit(aliexpress.train, aliexpress.valid)
        trainer.finish({"test": aliexpress.test})
        values = [record["valid"] for record in trainer.result.records if "valid" in record]
        measured = [(v["ctr"]["miss"] + v["ctcvr"]["miss"]) / 2 for v in values]
        assert trainer.result.best == pytest.approx(min(measured))
        assert values[0]["ctr"]["raises"] is None
        assert "hit_rate" not in values[0]["ctcvr"]
    evaluated = trainer.evaluate(aliexpress.test)
    assert evaluated.loc["ctr", "reason"] == "raises raised ZeroDivisionError: division by zero"
    frame = comparison.table("miss").set_index(["learning_rate", "task"])
    for task in ("ctr", "ctcvr"):
        low, high = frame.loc[(0.1, task)], frame.loc[(0.001, task)]
        assert low["best"] == (low["mean"] < high["mean"])
    assert set(comparison.table("hit_rate")["task"]) == {"ctr"}
    with pytest.raises(ValueError, match=r"`metric` must be one of auc, logloss, .*, miss, .* got 'mis'"):
        comparison.table("mis")
    (run_folder, _) = folders
    (run_folder / "recipe.yaml").write_text(f"trainer: {{stopping: {{metrics: {json.dumps(metrics)}}}}}\n")
    notes: list[str] = []
    (reported,) = open_runs([run_folder], note=notes.append)
    assert "miss" not in set(metric_frame([reported], draws=0)["metric"])
    assert len(notes) == 1
    assert "own_module.hit_rate, own_module.miss, own_module.raises, which are left out" in notes[0]
    table = metric_frame(open_runs([run_folder], trust=["own_module"], note=notes.append), draws=20)
    line = table[(table["metric"] == "hit_rate") & (table["task"] == "ctr")].iloc[0]
    assert line["low"] <= line["value"] <= line["high"]
    assert len(notes) == 1


def test_a_checkpoint_keeps_them_to_what_they_were(
    module: Path, aliexpress: recmtl.PreparedData, tmp_path: Path
) -> None:
    def trainer(*names: str) -> recmtl.Trainer:
        torch.manual_seed(0)
        stopping = recmtl.EarlyStopping(metrics={"ctr": [f"own_module.{name}" for name in names]})
        run = recmtl.RunConfig(tmp_path / "run", progress=False, tensorboard=False, device="cpu")
        return recmtl.Trainer(recmtl.SharedBottom(aliexpress.schema, layers=[4]), epochs=1, stopping=stopping, run=run)

    trainer("miss").fit(aliexpress.train, aliexpress.valid)
    trainer("miss").fit(aliexpress.train, aliexpress.valid, resume=True)
    with pytest.raises(recmtl.RunError, match=r"begun with `metrics` \{'ctr': \['own_module.miss'\]\}"):
        trainer("hit_rate").fit(aliexpress.train, aliexpress.valid, resume=True)


def test_the_command_measures_predictions_of_any_library(module: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = rows(False, False)
    frame = pd.DataFrame({"click": scores.labels, "ctr": scores.predictions})
    frame.to_parquet(module / "p.parquet")
    (module / "card.yaml").write_text("features: [{numeric: x}]\ntasks: [{name: ctr, label: click}]\n")
    command = ["evaluate", "--predictions", str(module / "p.parquet"), "--card", str(module / "card.yaml")]
    named = ["--metric", "own_module.hit_rate", "--metric", "ctr=own_module.raises", "--metric=binary=own_module.miss"]
    assert main([*command, "--json", "--draws", "20", *named]) == 0
    found = json.loads(capsys.readouterr().out)["ctr"]
    top = np.argsort(-scores.predictions)[:20]
    assert found["hit_rate"] == pytest.approx(scores.labels[top].mean())
    assert found["miss"] == pytest.approx(np.abs(scores.predictions - scores.labels).mean())
    assert (found["raises"], found["reason"]) == (None, "raises raised ZeroDivisionError: division by zero")
    assert found["intervals"]["miss"][0] < found["miss"] < found["intervals"]["miss"][1]
    assert main([*command, "--metric", "cvr=own_module.miss"]) == 2
    assert "got 'cvr'" in capsys.readouterr().err
    predictions = recmtl.Predictions.read(recmtl.card(str(module / "card.yaml")), module / "p.parquet")
    own = own_metrics({"ctr": ["own_module.miss"]})
    assert metrics_of(replace(predictions, own=own).scores()["ctr"]).values["miss"] == pytest.approx(found["miss"])
    assert isinstance(predictions.keys, pa.Table)


@pytest.mark.slow
def test_a_run_names_them_in_its_recipe_and_must_be_trusted(
    module: Path, csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data.card=aliexpress", *(f"--data.{split}={csv}/{split}.csv" for split in ("train", "valid", "test"))]
    options = ["--model=SharedBottom", "--model.layers=[4]", "--trainer.epochs=1", "--trainer.run.progress=false"]
    named = ["--trainer.stopping.metrics={all: [own_module.hit_rate]}", "--trainer.stopping.monitor=hit_rate"]
    callbacks = "--trainer.callbacks=[PrintMetrics]"
    assert main(["train", *data, *options, *named, callbacks, "--run", "run"]) == 0
    out = capsys.readouterr().out
    assert "hit_rate" in out
    assert "· ctr: auc 0." in out
    with pytest.raises(recmtl.RunError, match=r"names 'own_module.hit_rate', which is not trusted"):
        load_run("run")
    trainer = load_run("run", trust="own_module")
    measured = trainer.evaluate(csv / "test.csv")["hit_rate"]
    assert json.loads((module / "run" / "metrics.json").read_text())["test"]["ctr"]["hit_rate"] == measured["ctr"]
    assert main(["report", "run", "--out", "r.html", "--draws", "0"]) == 0
    assert "own_module.hit_rate, which are left out" in capsys.readouterr().err
    assert main(["report", "run", "--out", "r.html", "--draws", "0", "--trust", "own_module"]) == 0
    assert "hit_rate" in (module / "r.html").read_text()
