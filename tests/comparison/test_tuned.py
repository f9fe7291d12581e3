"""Comparisons whose options are searched first, with the same number of trials for each row."""

import json
from pathlib import Path

import pytest
from planted import Plant

import recmtl
from recmtl.cli.main import main
from recmtl.comparison import Comparison
from recmtl.comparison.grid import Variant
from recmtl.comparison.tables import fixed_weights_table, main_table, result_tables
from recmtl.comparison.tuned import TunedVariant
from recmtl.errors import DataError, RunError

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
            {}, tmp_path / "out", [MODEL], ["Sum", "FixedWeights"], 1, options=given, tuned=budget, progress=False
        )
        return Comparison.open(found.folder)

    (tmp_path / "test.csv").write_bytes(b"\xff\x00 no rows of a test")
    with pytest.raises(DataError):
        compare(tmp_path / "test.csv")  # after all searches, which opened no test rows
    searches = {path.name: recmtl.Tuning(path) for path in (tmp_path / "out" / "searches").iterdir() if path.is_dir()}
    assert sorted(searches) == ["SharedBottom_layers=_4-FixedWeights", "SharedBottom_layers=_4-Sum"]
    assert [len(tuning.trials) for tuning in searches.values()] == [2, 2]
    with pytest.raises(DataError, match="none"):
        compare(tmp_path / "none.csv")  # before
    options["trainer.epochs"] = 2
    with pytest.raises(RunError, match="searches a recipe with"):
        compare()
    options["trainer.epochs"] = 1
    comparison = compare()
    assert {found.trials for found in comparison.tuned.values()} == {2}
    for run in comparison.grid:
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
    comparison.tuned[bad] = TunedVariant(20, "", 3, "all 20 trials failed, the first one: it diverged")
    assert any("20 trials each (0 to 3 of them ended early" in note for note in main_table(comparison).notes)
    assert any("Left out: MMOE with DWA: all 20 trials failed" in note for note in main_table(comparison).notes)


def test_what_does_not_fit_a_search_is_said(csv: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["compare", "--models", "MMOE", "--out", str(tmp_path / "out"), "--data.train", str(csv / "train.csv")]
    assert main([*given, "--trials", "3"]) == 2
    assert "give `--tuned` as well" in capsys.readouterr().err
    options = OPTIONS | {"data.train": str(csv / "train.csv")}
    with pytest.raises(ValueError, match="a search finds the learning rate: leave out `learning_rates`"):
        recmtl.compare({}, tmp_path / "out", [MODEL], learning_rates=[0.1], options=options, tuned=recmtl.Budget(2))
