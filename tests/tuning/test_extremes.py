"""Values that no recipe takes, found without a trial."""

from typing import Any

import pytest

import recmtl
from recmtl.errors import UsageError
from recmtl.recipe.options import recipe_parser
from recmtl.tuning.extremes import check_extremes
from recmtl.tuning.recipes import SearchedRecipe
from recmtl.tuning.space import SearchSpace

BALANCERS = {"Sum": None, "GradNorm": {"alpha": {"low": 0.5, "high": 3.0}}}


def check(content: dict[str, Any], data: recmtl.PreparedData, *arguments: str) -> None:
    recipe = SearchedRecipe(recipe_parser("recmtl tune"), ("--model=SharedBottom", "--model.layers=[4]", *arguments))
    space = recipe.space(content, recipe.trainer(data.schema))
    assert isinstance(space, SearchSpace)
    check_extremes(recipe, space, data.schema)


def test_what_can_be_built_passes(aliexpress: recmtl.PreparedData) -> None:
    check({"trainer.epochs": {"low": 1, "high": 3}, "balancer": BALANCERS}, aliexpress)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model.style.dropout": {"low": 0.0, "high": 1.5}}, "`model.style.dropout` .* cannot be 1.5: `dropout`"),
        (
            {"trainer.epochs": [1, 2], "balancer": BALANCERS | {"GradNorm": {"alpha": [-1.0, 1.0]}}},
            "`balancer.GradNorm.alpha` .* cannot be -1.0: `alpha`",
        ),
    ],
)
def test_a_value_that_cannot_be_built_is_refused(
    content: dict[str, Any], message: str, aliexpress: recmtl.PreparedData
) -> None:
    with pytest.raises(UsageError, match=message):
        check(content, aliexpress)


def test_a_value_that_fits_others_alone_is_left_to_the_trials(aliexpress: recmtl.PreparedData) -> None:
    """Single-task models, such as the recipe's, are trained with the sum alone."""
    space = {"balancer": ["Sum", "PCGrad"], "trainer.epochs": [1, 2]}
    with pytest.raises(UsageError, match=r"`balancer` .* cannot be 'PCGrad': the tasks of SingleTask share no tensor"):
        check(space, aliexpress, "--model=SingleTask")
    check(space | {"model": ["SingleTask", "SharedBottom"]}, aliexpress, "--model=SingleTask")
