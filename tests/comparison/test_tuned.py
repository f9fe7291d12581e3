"""Comparisons whose options are searched first, with the same number of trials for each row."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from planted import Plant

import recmtl
from recmtl.cli.main import main
from recmtl.comparison import Comparison, runner
from recmtl.comparison.grid import Variant
from recmtl.comparison.runner import check_searched, keep_finished, prepared
from recmtl.comparison.tables import fixed_weights_table, main_table, result_tables
from recmtl.comparison.tuned import TunedVariant
from recmtl.errors import DataError, RunError
from recmtl.recipe.data_options import DataOptions

OPTIONS = {
    "data.card": "aliexpress",
    "trainer.epochs": 1,
    "trainer.optimization.batch_size": 512,
    "trainer.run.device": "cpu",
    "trainer.run.tensorboard": False,
}
MODEL = {"class_path": "SharedBottom", "init_args": {"layers": [4]}}


@pytest.mark.slow
@pytest.mark.usefixtures("warm_workers", "warm_jobs")
def test_each_row_is_searched_alike_and_then_trained_with_its_best_options(csv: Path, tmp_path: Path) -> None:
    options = OPTIONS | {f"data.{name}": str(csv / f"{name}.csv") for name in ("train", "valid", "test")}
    search = {"trainer.optimization.optimizer.lr": {"low": 0.001, "high": 0.05, "log": True}}

    def compare(test: Path = csv / "test.csv") -> Comparison:
        budget = recmtl.Budget(2, search)
        given = options | {"data.test": str(test)}
        found = recmtl.compare(
            {},
            tmp_path / "out",
            [MODEL],
            ["Sum", "FixedWeights"],
            1,
            baselines=["logistic"],
            options=given,
            tuned=budget,
            progress=False,
        )
        return Comparison.open(found.folder)

    (tmp_path / "test.csv").write_bytes(b"\xff\x00 no rows of a test")
    with pytest.raises(DataError):
        compare(tmp_path / "test.csv")  # after all searches, which opened no test rows
    searches = {path.name: recmtl.Tuning(path) for path in (tmp_path / "out" / "searches").iterdir() if path.is_dir()}
    assert sorted(searches) == ["SharedBottom_layers=_4-FixedWeights", "SharedBottom_layers=_4-Sum", "logistic"]
    assert [len(tuning.trials) for tuning in searches.values()] == [2, 2, 2]
    with pytest.raises(DataError, match="none"):
        compare(tmp_path / "none.csv")  # before
    options["trainer.epochs"] = 2
    with pytest.raises(RunError, match="searches a recipe with"):
        compare()
    options["trainer.epochs"] = 1
    comparison = compare()
    assert {found.trials for found in comparison.tuned.values()} == {2}
    *nets, linear = comparison.grid
    best = searches["logistic"].best_options["baseline.penalty"]
    assert f"penalty {best:.4g}" in comparison.tuned[linear.variant].options
    result = json.loads((comparison.path(linear) / "metrics.json").read_text())
    assert result["best"]["value"] == searches["logistic"].best_value
    for run in nets:
        tuning, tuned = searches[run.variant.name], comparison.tuned[run.variant]
        recipe, best = (
            recmtl.Tuning(tuning.folder).best_recipe,
            tuning.best_options["trainer.optimization.optimizer.lr"],
        )
        assert f"lr {best:.4g}" in tuned.options
        result = json.loads((comparison.path(run) / "metrics.json").read_text())
        assert result["best"]["value"] == tuning.best_value
        assert recipe["trainer"]["optimization"]["optimizer"]["init_args"]["lr"] == best
    table = (comparison.folder / "table.md").read_text()
    assert "Options: the best of a search on the validation rows, 2 trials each" in table
    assert "against FixedWeights, " in table


def test_more_trials_train_anew_what_they_change(
    plant: Plant,
) -> None:
    """Of the runs that are kept, those of one search alone are removed."""
    tuned, other, trees = Variant("MMOE", "Sum"), Variant("MMOE", "DWA"), Variant("lightgbm", "")
    before = plant({tuned: {"a": 1.0}, other: {"a": 1.0}, trees: {"a": 1.0}}, seeds=2)
    for run in before.grid:
        (before.path(run) / "recipe.yaml").write_text(json.dumps(recipe_of(run.variant, 0.1)))
    variants = {tuned: TunedVariant(2, ""), other: TunedVariant(2, "")}
    keys = {variant: ["trainer.optimization.optimizer.lr", "balancer.task_weights.b"] for variant in variants}
    said: list[str] = []

    def kept(changes: dict[Variant, float], epochs: int = 1) -> set[str]:
        grid = [
            replace(run, recipe=recipe_of(run.variant, changes.get(run.variant, 0.1), epochs)) for run in before.grid
        ]
        found = Comparison(before.folder, "test", grid, variants)
        return {run.name for run in keep_finished(found, "planted", keys, said.append)}

    everything = {run.name for run in before.grid}
    with pytest.raises(RunError, match=r"which is 0\.2 now: give another"):
        kept({tuned: 0.2})  # they were not searched before
    for one in (tuned, trees):
        with pytest.raises(RunError, match="whose options were not searched: give another `--out`"):
            check_searched(before.folder, [one])
    check_searched(before.folder, [])
    assert kept({}) == everything
    check_searched(before.folder, [tuned, other])
    with pytest.raises(RunError, match=r"`trainer\.epochs` 1, which is 2 now"):
        kept({tuned: 0.2}, epochs=2)
    with pytest.raises(RunError, match="lightgbm"):
        kept({tuned: 0.2, trees: 0.2})
    assert all(before.path(run).exists() for run in before.grid)
    assert kept({tuned: 0.2}) == everything - {"MMOE-Sum-0", "MMOE-Sum-1"}
    assert said == ["MMOE with Sum: more trials have found other options: runs that were finished are trained anew: 2"]
    assert sorted(path.name for path in (before.folder / "cells").iterdir() if any(path.iterdir())) == sorted(
        everything - {"MMOE-Sum-0", "MMOE-Sum-1"}
    )


def recipe_of(variant: Variant, rate: float, epochs: int = 1) -> dict[str, Any]:
    optimizer = {"class_path": "torch.optim.Adam", "init_args": {"lr": rate}}
    return {"model": variant.model, "trainer": {"epochs": epochs, "optimization": {"optimizer": optimizer}}}


def test_baselines_whose_options_were_all_given_are_called_untuned(plant: Plant) -> None:
    net, trees = Variant("MMOE", "Sum"), Variant("lightgbm", "")
    comparison = plant({net: {"a": 1.0}, trees: {"a": 3.0}, Variant("logistic", ""): {"a": 0.0}})
    assert not any("ntuned" in note for note in main_table(comparison).notes)
    comparison.tuned = {net: TunedVariant(20, "lr 0.01", 2, 1)}
    table = main_table(comparison)
    (sentence,) = [note for note in table.notes if note.startswith("a: ")]
    assert "lightgbm is significantly better than 2 other variants" in sentence
    assert sentence.endswith(" Untuned: lightgbm, logistic.")
    assert [[cell.text for cell in row[-2:]] for row in table.rows] == [["20", "lr 0.01"], *[["–", "untuned"]] * 2]
    comparison.tuned = {net: TunedVariant(1, "lr 0.01")}
    assert any("on the validation rows, 1 trial each; the seeds" in note for note in main_table(comparison).notes)
    comparison.tuned = {net: TunedVariant(20, "lr 0.01", 2, 1), trees: TunedVariant(20, "num_leaves 7")}
    notes = main_table(comparison).notes
    assert next(note for note in notes if note.startswith("a: ")).endswith(" Untuned: logistic.")
    comparison.tuned[Variant("logistic", "")] = TunedVariant(20, "penalty 1")
    assert not any("ntuned" in note for note in main_table(comparison).notes)
    assert any(
        "20 trials each (2 ended early, worse than the median at the same evaluation; 1 failed)" in note
        for note in table.notes
    )


def test_the_table_says_which_methods_are_better_than_weights_set_by_hand(plant: Plant) -> None:
    fixed, good, equal, bad = (Variant("MMOE", name) for name in ("FixedWeights", "PCGrad", "Sum", "DWA"))
    signals = {fixed: {"a": 1.0}, good: {"a": 3.0}, equal: {"a": 1.0}, bad: {"a": 0.0}}
    comparison = plant(signals)
    assert [table.title for table in result_tables(comparison)] == ["comparison"]
    comparison.tuned = {Variant("SingleTask", "Sum"): TunedVariant(20, ""), fixed: TunedVariant(20, "")}
    assert not comparison.has_tuned_weights  # there is nothing beside them
    comparison.tuned = {variant: TunedVariant(20, "lr 0.01") for variant in signals}
    assert [table.title for table in result_tables(comparison)] == ["comparison", "fixed weights"]
    found = fixed_weights_table(comparison)
    assert [row[1].text for row in found.rows] == ["PCGrad", "Sum", "DWA"]
    (sentence,) = [note for note in found.notes if note.startswith("a: against")]
    assert sentence.startswith(
        "a: against FixedWeights, MMOE with PCGrad better and MMOE with DWA worse; 1 variant not"
    )
    assert [cell.text for cell in main_table(comparison).rows[0][-2:]] == ["20", "lr 0.01"]
    comparison.tuned[bad] = TunedVariant(20, "", 3, 17, "all 20 trials failed, the first one: it diverged")
    assert any(
        "20 trials each (0 to 3 ended early, worse than the median at the same evaluation; 0 to 17 failed)" in note
        for note in main_table(comparison).notes
    )
    assert any("Left out: MMOE with DWA: all 20 trials failed" in note for note in main_table(comparison).notes)


def test_what_does_not_fit_a_search_is_said(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["compare", "--models", "MMOE", "--out", str(tmp_path / "out"), "--data.train", str(csv / "train.csv")]
    assert main([*given, "--trials", "3"]) == 2
    assert "give `--tuned` as well" in capsys.readouterr().err
    options = OPTIONS | {"data.train": str(csv / "train.csv")}
    with pytest.raises(ValueError, match="a search finds the learning rate: leave out `learning_rates`"):
        recmtl.compare({}, tmp_path / "out", [MODEL], learning_rates=[0.1], options=options, tuned=recmtl.Budget(2))
    with pytest.raises(DataError, match="no test rows to compare tuned methods on, as the validation rows chose"):
        recmtl.compare({}, tmp_path / "out", [MODEL], options=options, tuned=recmtl.Budget(2), progress=False)
    assert not (tmp_path / "out" / "searches").exists()


def test_notes_that_the_search_has_shown_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    data = SimpleNamespace(notes=("a column is constant", "a test label is missing"), splits={"test": ()})
    monkeypatch.setattr(runner, "open_data", lambda *given: data)
    said: list[str] = []
    observer: Any = SimpleNamespace(warn=said.append, count_rows=None)
    prepared(DataOptions("rows.csv"), observer, lambda schema: None, ["a column is constant"])
    assert said == ["a test label is missing"]
