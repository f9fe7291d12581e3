"""The runs of a grid and their recipes."""

from pathlib import Path

import pytest

from recmtl.comparison.grid import Grid, GridRun, Variant
from recmtl.errors import UsageError
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.recipe.recipe import complete_recipe

RECIPE = """
model: {class_path: SharedBottom, init_args: {layers: [8], style: {dropout: 0.5}}}
balancer: {class_path: PCGrad, init_args: {reduction: sum}}
trainer: {epochs: 7}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return str(path)


def runs(grid: Grid, *arguments: str) -> dict[str, GridRun]:
    return {run.name: run for run in grid.runs(recipe_parser("test"), arguments)}


def test_the_grid_is_the_product_of_its_lists(recipe: str) -> None:
    grid = Grid(["SharedBottom", "MMOE"], ["Sum", "MetaBalance"], [3, 1], [0.1, 0.01])
    found = runs(grid, "--config", recipe)
    assert len(found) == 2 * 2 * 2 * 2
    run = found["MMOE-MetaBalance-0.01-3"]
    assert run.variant == Variant("MMOE", "MetaBalance", 0.01)
    assert run.recipe["trainer"]["run"]["seed"] == 3
    assert run.recipe["trainer"]["optimization"]["optimizer"]["init_args"]["lr"] == 0.01
    assert run.recipe["trainer"]["epochs"] == 7
    assert list(runs(Grid(["MMOE"], seeds=2))) == ["MMOE-Sum-0", "MMOE-Sum-1"]


def test_a_run_equals_train_with_the_same_options(recipe: str) -> None:
    (run,) = runs(Grid(["SharedBottom"], ["PCGrad"], [0]), "--config", recipe, "--trainer.epochs", "2").values()
    parser = recipe_parser("test")
    assert run.recipe == complete_recipe(parser, parse_recipe(parser, ["--config", recipe, "--trainer.epochs", "2"]))


def test_other_models_take_the_options_of_the_recipe_that_they_have(recipe: str) -> None:
    found = runs(Grid(["SharedBottom", "MMOE", "ESMM"], seeds=1), "--config", recipe)
    bottom, mmoe, esmm = (run.recipe["model"]["init_args"] for run in found.values())
    assert bottom["layers"] == mmoe["layers"] == [8]
    assert {args["style"]["dropout"] for args in (bottom, mmoe, esmm)} == {0.5}
    assert mmoe["experts"] == 4
    assert "layers" not in esmm
    assert esmm["tower_layers"] == [256, 128, 64]  # its own default, not that of another model


def test_a_random_balancer_takes_the_seed_of_its_run(recipe: str) -> None:
    found = runs(Grid(["MMOE"], ["PCGrad", "Sum"], [5]), "--config", recipe)
    assert found["MMOE-PCGrad-5"].recipe["balancer"]["init_args"] == {"reduction": "sum", "scope": "whole", "seed": 5}
    assert found["MMOE-Sum-5"].recipe["balancer"]["class_path"] == "recmtl.Sum"
    assert not found["MMOE-Sum-5"].recipe["balancer"].get("init_args")


def test_own_options_are_in_the_name_of_a_variant(recipe: str, tmp_path: Path) -> None:
    wide = {"class_path": "MMOE", "init_args": {"experts": 2, "style": {"dropout": 0.1}}}
    file = tmp_path / "narrow.yaml"
    file.write_text("class_path: recmtl.MMOE\ninit_args: {layers: [2]}\n")
    found = runs(Grid(["MMOE", wide, str(file)], seeds=1), "--config", recipe)
    assert list(found) == ["MMOE-Sum-0", "MMOE_experts=2_style.dropout=0.1-Sum-0", "narrow-Sum-0"]
    plain, own, narrow = (run.recipe["model"]["init_args"] for run in found.values())
    assert (plain["experts"], own["experts"], narrow["layers"]) == (4, 2, [2])
    assert own["layers"] == [8]
    assert [run.variant.model for run in found.values()] == ["MMOE", "MMOE(experts=2, style.dropout=0.1)", "narrow"]


def test_a_mapping_may_be_given_as_text(recipe: str) -> None:
    single, logistic = (
        "{class_path: SingleTask, init_args: {layers: [8]}}",
        " {class_path: logistic, init_args: {C: 2}}",
    )
    found = runs(Grid([single], ["Sum", "PCGrad"], 1, baselines=[logistic]), "--config", recipe)
    assert list(found) == ["SingleTask_layers=_8-Sum-0", "logistic_C=2-0"]
    assert found["logistic_C=2-0"].recipe["baseline"]["init_args"] == {"C": 2}


def test_single_task_models_are_trained_with_the_sum_alone(recipe: str) -> None:
    grid = Grid(["SingleTask", "MMOE"], ["MetaBalance", "PCGrad"], 1)
    assert list(runs(grid, "--config", recipe)) == ["SingleTask-Sum-0", "MMOE-MetaBalance-0", "MMOE-PCGrad-0"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": []}, "`models` must not be empty"),
        ({"balancers": []}, "`balancers` must not be empty"),
        ({"seeds": 0}, "`seeds` must not be empty"),
        ({"seeds": [1, 2, 1]}, "`seeds` must not have duplicates, got 1 twice"),
        ({"seeds": [-1]}, r"`seeds` must be in \[0, 2³²\)"),
        ({"models": ["MMOE", "recmtl.MMOE"]}, "`models` must not have duplicates, got MMOE twice"),
        ({"learning_rates": [0.1, 0.1]}, "`learning_rates` must not have duplicates, got 0.1 twice"),
        ({"models": ["missing.yaml"]}, "missing.yaml cannot be read"),
        ({"models": [{"experts": 2}]}, "must have `class_path`"),
        ({"models": ["{experts: 2}"]}, "must have `class_path`"),
        ({"models": ["{experts"]}, "{experts cannot be read"),
    ],
)
def test_empty_lists_and_duplicates_are_errors(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Grid(**{"models": ["MMOE"]} | options)


def test_runs_with_the_same_folder_are_an_error() -> None:
    grid = Grid([{"class_path": "MMOE", "init_args": {"layers": layers}} for layers in ([1, 2], [[1], 2])], seeds=1)
    with pytest.raises(ValueError, match="layers"):
        runs(grid)
    with pytest.raises(UsageError, match="there is no model 'Foo'"):
        runs(Grid(["Foo"]))
