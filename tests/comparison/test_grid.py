"""Which runs a comparison has, and with what options."""

from pathlib import Path

import pytest
from jsonargparse import ArgumentError

from recmtl.comparison.grid import Grid, GridRun, Row
from recmtl.recipe.recipe import complete_recipe, parse_recipe, recipe_parser

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


def cells(grid: Grid, *arguments: str) -> dict[str, GridRun]:
    return {cell.name: cell for cell in grid.cells(recipe_parser("test"), arguments)}


def test_every_model_meets_every_balancer_seed_and_rate(recipe: str) -> None:
    grid = Grid(["SharedBottom", "MMOE"], ["Sum", "MetaBalance"], [3, 1], [0.1, 0.01])
    found = cells(grid, "--config", recipe)
    assert len(found) == 2 * 2 * 2 * 2
    cell = found["MMOE-MetaBalance-0.01-3"]
    assert cell.row == Row("MMOE", "MetaBalance", 0.01)
    assert cell.recipe["trainer"]["run"]["seed"] == 3
    assert cell.recipe["trainer"]["optimization"]["optimizer"]["init_args"]["lr"] == 0.01
    assert cell.recipe["trainer"]["epochs"] == 7
    assert list(cells(Grid(["MMOE"], seeds=2))) == ["MMOE-Sum-0", "MMOE-Sum-1"]


def test_a_cell_is_what_train_makes_of_the_same_options(recipe: str) -> None:
    (cell,) = cells(Grid(["SharedBottom"], ["PCGrad"], [0]), "--config", recipe, "--trainer.epochs", "2").values()
    parser = recipe_parser("test")
    assert cell.recipe == complete_recipe(parser, parse_recipe(parser, ["--config", recipe, "--trainer.epochs", "2"]))


def test_another_model_keeps_the_options_that_the_recipe_gives_and_it_has(recipe: str) -> None:
    found = cells(Grid(["SharedBottom", "MMOE", "ESMM"], seeds=1), "--config", recipe)
    bottom, mmoe, esmm = (cell.recipe["model"]["init_args"] for cell in found.values())
    assert bottom["layers"] == mmoe["layers"] == [8]
    assert {args["style"]["dropout"] for args in (bottom, mmoe, esmm)} == {0.5}
    assert mmoe["experts"] == 4
    assert "layers" not in esmm
    assert esmm["tower_layers"] == [256, 128, 64]  # its own default, not that of another model


def test_a_balancer_draws_by_the_seed_of_its_run(recipe: str) -> None:
    found = cells(Grid(["MMOE"], ["PCGrad", "Sum"], [5]), "--config", recipe)
    assert found["MMOE-PCGrad-5"].recipe["balancer"]["init_args"] == {"reduction": "sum", "scope": "whole", "seed": 5}
    assert found["MMOE-Sum-5"].recipe["balancer"]["class_path"] == "recmtl.Sum"
    assert not found["MMOE-Sum-5"].recipe["balancer"].get("init_args")


def test_options_of_its_own_name_a_row(recipe: str, tmp_path: Path) -> None:
    wide = {"class_path": "MMOE", "init_args": {"experts": 2, "style": {"dropout": 0.1}}}
    file = tmp_path / "narrow.yaml"
    file.write_text("class_path: recmtl.MMOE\ninit_args: {layers: [2]}\n")
    found = cells(Grid(["MMOE", wide, str(file)], seeds=1), "--config", recipe)
    assert list(found) == ["MMOE-Sum-0", "MMOE_experts=2_style.dropout=0.1-Sum-0", "narrow-Sum-0"]
    plain, own, narrow = (cell.recipe["model"]["init_args"] for cell in found.values())
    assert (plain["experts"], own["experts"], narrow["layers"]) == (4, 2, [2])
    assert own["layers"] == [8]
    assert [cell.row.model for cell in found.values()] == ["MMOE", "MMOE(experts=2, style.dropout=0.1)", "narrow"]


def test_a_model_that_shares_nothing_is_trained_with_the_sum_alone(recipe: str) -> None:
    grid = Grid(["SingleTask", "MMOE"], ["MetaBalance", "PCGrad"], 1)
    assert list(cells(grid, "--config", recipe)) == ["SingleTask-Sum-0", "MMOE-MetaBalance-0", "MMOE-PCGrad-0"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"models": []}, "`models` must name at least one"),
        ({"balancers": []}, "`balancers` must name at least one"),
        ({"seeds": 0}, "`seeds` must name at least one"),
        ({"seeds": [1, 2, 1]}, "`seeds` must name each once, got 1 twice"),
        ({"seeds": [-1]}, r"`seeds` must be in \[0, 2³²\)"),
        ({"models": ["MMOE", "recmtl.MMOE"]}, "`models` must name each once, got MMOE twice"),
        ({"learning_rates": [0.1, 0.1]}, "`learning_rates` must name each once, got 0.1 twice"),
        ({"models": ["missing.yaml"]}, "missing.yaml cannot be read"),
        ({"models": [{"experts": 2}]}, "must have `class_path`"),
    ],
)
def test_a_grid_of_nothing_or_of_the_same_twice_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Grid(**{"models": ["MMOE"]} | options)


def test_runs_that_would_share_a_folder_are_refused() -> None:
    grid = Grid([{"class_path": "MMOE", "init_args": {"layers": layers}} for layers in ([1, 2], [[1], 2])], seeds=1)
    with pytest.raises((ValueError, ArgumentError)):
        cells(grid)
    with pytest.raises(ArgumentError, match="Foo"):
        cells(Grid(["Foo"]))
