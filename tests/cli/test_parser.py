"""Wrong options are explained in the user's words; the parser's own come from the parser itself."""

from argparse import ArgumentError

import pytest

from recmtl.cli.main import one_line
from recmtl.recipe.recipe import parse_recipe, recipe_parser


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.layers", "x"], "`--model.layers` must be a list, got 'x'"),
        (["--model.expertz", "3"], "`--model` has no option 'expertz': `--model.help` lists them"),
        (["--model.style.dropoot", "0.1"], "`--model` has no option 'style.dropoot': `--model.help` lists them"),
        (["--model.style.dropout", "a"], "`--model.style.dropout` must be a number, got 'a'"),
        (["--model.towers", "x"], "`--model.towers` must be a mapping or null, got 'x'"),
        (["--trainer.epochs", "x"], "`--trainer.epochs` must be an integer, got 'x'"),
        (["--trainer.epochs", "1.5"], "`--trainer.epochs` must be an integer, got '1.5'"),
        (["--trainer.run.progress", "maybe"], "`--trainer.run.progress` must be true or false, got 'maybe'"),
        (
            ["--trainer.optimization.clip_norm", "a"],
            "`--trainer.optimization.clip_norm` must be a number or null, got 'a'",
        ),
        (
            ["--trainer.optimization.schedule", "step"],
            "`--trainer.optimization.schedule` must be one of constant, linear, cosine, got 'step'",
        ),
        (
            ["--balancer", "MetaBalance", "--balancer.strategy", "foo"],
            "`--balancer.strategy` must be one of both, reduce, enlarge, got 'foo'",
        ),
        (
            ["--model", "Nope"],
            "there is no model 'Nope': give one of ESMM, MMOE, SharedBottom, SingleTask, or the import path of your "
            "own",
        ),
        (
            ["--trainer.optimization.optimizer", "Adm"],
            "there is no trainer.optimization.optimizer 'Adm': give the import path of your own",
        ),
        (["--nope", "1"], "unrecognized arguments: --nope 1"),
    ],
)
def test_one_sentence(arguments: list[str], said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_recipe(recipe_parser("test"), arguments)
    assert one_line(caught.value) == said
