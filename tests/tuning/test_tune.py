"""`recmtl tune` on generated rows: trials in processes, and a recipe that trains to what the search found."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import recmtl
from recmtl.cli.main import main
from recmtl.errors import DataError, RunError, UsageError
from recmtl.io.files import locked
from recmtl.recipe.options import recipe_parser
from recmtl.train.predictor import Predictor
from recmtl.tuning import study
from recmtl.tuning.recipes import SearchedRecipe
from recmtl.tuning.trials import NetTrials
from recmtl.tuning.tune import data_key, nothing_finished

RATES = {"trainer.optimization.optimizer.lr": [0.01, 0.003]}
DYING = """
import os, signal
from recmtl.balance import Sum

class Dying(Sum):
    def backward(self, *arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def recipe(csv: Path) -> dict[str, Any]:
    data = {"card": "aliexpress", "train": str(csv / "train.csv"), "valid": str(csv / "valid.csv")}
    trainer = {"epochs": 2, "optimization": {"batch_size": 512}, "run": {"device": "cpu"}}
    model = {"class_path": "SharedBottom", "init_args": {"layers": [8]}}
    return {"data": data, "model": model, "balancer": "Sum", "trainer": trainer}


def of_trial(recipe: dict[str, Any]) -> dict[str, Any]:
    return SearchedRecipe(recipe_parser("recmtl tune"), (f"--config={json.dumps(recipe)}",)).of_trial()


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_the_best_recipe_trains_to_what_the_search_found_and_no_test_row_is_opened(
    recipe: dict[str, Any], csv: Path, tmp_path: Path
) -> None:
    poisoned = tmp_path / "poisoned.csv"
    poisoned.write_bytes(b"\xff\x00 no rows of a test")
    recipe["data"]["test"] = str(poisoned)
    space = {
        "trainer.optimization.optimizer.lr": [0.01, 0.003, 1e30],
        "model.style.dropout": [0.0, 0.5],
        "balancer": {"FixedWeights": {"task_weights.*": [0.5, 2.0]}},
    }
    tuning = recmtl.tune(recipe, tmp_path / "out", space, trials=6, progress=False)
    failed = tuning.trials[tuning.trials["trainer.optimization.optimizer.lr"] == 1e30]
    assert set(failed["state"]) == {"failed"}
    assert failed["reason"].str.contains("trained nothing because losses or gradients were not finite").all()
    assert len(failed) < len(tuning.trials) == 6
    assert tuning.best_recipe["data"]["test"] == str(poisoned)
    command = ["train", "--config", str(tmp_path / "out" / "best.yaml"), "--data.test", str(csv / "test.csv")]
    assert main([*command, "--run", str(tmp_path / "run"), "--trainer.run.progress", "false"]) == 0
    result = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert result["best"]["value"] == tuning.best_value


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_a_trial_that_takes_its_process_along_has_failed_and_the_others_go_on(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    space = {"balancer": ["Sum", "dying.Dying"], "model.layers": [[4], [8]]}
    found = recmtl.tune(recipe, tmp_path / "out", space, trials=5, jobs=2, progress=False).trials
    dead = found["balancer"] == "dying.Dying"
    assert 0 < dead.sum() < len(found) == 5
    assert set(found.loc[dead, "reason"]) == {"its process was killed by SIGKILL (out of memory?)"}
    assert set(found.loc[~dead, "state"]) == {"finished"}


def test_a_trial_without_predictions_for_a_task_has_no_value(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over the other tasks is no value that other trials can be compared by, at no evaluation."""
    measure, reports = Predictor.measure, []

    def lost(self: Predictor, *arguments: Any) -> Any:
        found = measure(self, *arguments)
        found["ctr"] = replace(found["ctr"], values=dict.fromkeys(found["ctr"].values), reason="9 are not finite")
        return found

    trial = SimpleNamespace(report=lambda *values: reports.append(values), should_prune=lambda: False)
    recipe["trainer"] |= {"epochs": 1}
    recipe = of_trial(recipe)
    value, _ = NetTrials().train(recipe, trial)
    assert reports == [(value, 1)]
    monkeypatch.setattr(Predictor, "measure", lost)
    with pytest.raises(RunError, match=r"auc was never defined \(ctr: 9 are not finite\)"):
        NetTrials().train(recipe, trial)
    assert len(reports) == 1


def test_a_loss_of_the_card_is_imported(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tuned_losses.py").write_text("def square(logits, labels):\n    return (logits - labels) ** 2\n")
    card = recmtl.card("aliexpress")
    tasks = [replace(task, loss="tuned_losses.square") if task.name == "ctr" else task for task in card.tasks]
    replace(card, tasks=tuple(tasks)).save(tmp_path / "card.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("RECMTL_CACHE", str(tmp_path / "cache"))
    recipe["data"]["card"] = str(tmp_path / "card.yaml")
    recipe["trainer"] |= {"epochs": 1}
    trial = SimpleNamespace(report=lambda *values: None, should_prune=lambda: False)
    assert NetTrials().train(of_trial(recipe), trial)[0] is not None


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers")
def test_a_search_in_which_all_trials_fail_says_why(recipe: dict[str, Any], tmp_path: Path) -> None:
    space = {"trainer.optimization.optimizer.lr": [1e30, 1e31]}
    with pytest.raises(
        RunError, match=r"all 2 trials in '.*' failed, the first one: the last 9 steps, .* trained nothing"
    ):
        recmtl.tune(recipe, tmp_path / "out", space, trials=2, progress=False)
    assert set(recmtl.Tuning(tmp_path / "out").trials["state"]) == {"failed"}


def test_one_trial_is_spoken_of_as_one() -> None:
    trials = {"state": ["failed"], "reason": ["it diverged"]}
    tuning: Any = SimpleNamespace(trials=pd.DataFrame(trials), folder=Path("out"))
    assert str(nothing_finished(tuning)) == "the only trial in 'out' failed: it diverged"


def test_what_is_wrong_is_said_before_the_first_trial(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmtl.tuning.workers.WORKER", ("false",))

    def tune(search: Any = RATES, out: Path = tmp_path / "out", **options: Any) -> None:
        recmtl.tune(recipe, out, search, progress=False, **options)

    (tmp_path / "list.yaml").write_text("[1]")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    for search, message in (
        (tmp_path / "none.yaml", "the search space .*none.yaml' cannot be read"),
        (tmp_path / "list.yaml", "list.yaml is no search space"),
        ({"model.layer": [[8]]}, "SharedBottom has no option `model.layer`; did you mean `model.layers`"),
        ({"trainer.epochs": [1, 0]}, r"`trainer.epochs` in the search space cannot be 0: `epochs` must be at least 1"),
        ({"trainer.optimization.optimizer.lr": {"low": -1, "high": 1}}, "optimizer.lr` .* cannot be -1: Invalid learn"),
        (
            {"balancer": {"Sum": {}, "FixedWeights": {"task_weights.cvr": [0.5, 2.0]}}},
            r"`balancer.FixedWeights.task_weights.cvr` .* cannot be 0.5: .* of the tasks .*, got one of 'cvr'",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            tune(search)
    assert not (tmp_path / "out" / "tuning.json").exists()  # the space can be mended
    with pytest.raises(UsageError, match="`--trials` must be at least 1, got 0"):
        tune(trials=0)
    with pytest.raises(RunError, match="is not empty and no search"):
        tune(out=tmp_path / "other")
    with pytest.raises(RunError, match="a process for trials did not start"):
        tune()
    with locked(tmp_path / "out" / ".lock"), pytest.raises(RunError, match="another process is using"):
        tune()
    monkeypatch.setattr(study, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r'pip install "recmtl\[tune\]"'):
        tune()


def test_without_validation_rows_nothing_is_searched(csv: Path, tmp_path: Path) -> None:
    prepared = tmp_path / "prepared"
    recmtl.prepare(recmtl.card("aliexpress"), csv / "valid.csv", out=prepared, holdout=0.0)
    with pytest.raises(DataError, match="there are no validation rows to compare trials on"):
        recmtl.tune({"data": {"train": str(prepared)}}, tmp_path / "out", RATES, progress=False)


def test_the_test_rows_of_a_prepared_dataset_are_not_opened(csv: Path, tmp_path: Path) -> None:
    files = [csv / f"{name}.csv" for name in ("valid", "valid", "test")]
    recmtl.prepare(recmtl.card("aliexpress"), *files, out=tmp_path / "prepared")
    (test,) = (tmp_path / "prepared").glob("test*")
    test.write_bytes(b"x" * test.stat().st_size)
    recipe = SearchedRecipe(recipe_parser("recmtl tune"), (f"--data.train={tmp_path / 'prepared'}",))
    data = recipe.open_data(lambda what, rows: None)
    assert len(data.train) == len(data.valid) > 0
    assert len(data_key(data)) == 64
    with pytest.raises(DataError):
        _ = data.test.table
