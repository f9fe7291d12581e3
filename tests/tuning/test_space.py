"""What a search space says, and what is wrong with one in a sentence."""

from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import FixedTrial

import recmtl
from recmtl.errors import UsageError
from recmtl.recipe.classes import known_names
from recmtl.recipe.options import parse_recipe, recipe_parser
from recmtl.tuning.recipes import space_of_variant
from recmtl.tuning.space import Choices, Range, SearchOption, SearchSpace

PARSER = recipe_parser("recmtl tune")
NAMED = {"model": "MMOE", "balancer": "GradNorm"}
TASKS = ["ctr", "cvr", "buy"]


def parsed(text: str, base: dict[str, Any] | None = None) -> SearchSpace:
    return SearchSpace.parse(yaml.safe_load(text), PARSER, NAMED, TASKS, base or {})


def values(text: str) -> dict[str, Range | Choices]:
    return {option.name: option.values for option in parsed(text).options}


def test_ranges_and_choices_with_dotted_and_nested_keys() -> None:
    found = values("""
trainer.optimization.optimizer.lr: {low: 1e-4, high: 0.1, log: true}
model: {experts: {low: 2, high: 8, step: 4}, layers: [[8], [16, 8]]}
balancer.alpha: {low: 0, high: 1}
trainer: {epochs: [1, 2]}
""")
    assert found == {
        "trainer.optimization.optimizer.lr": Range(1e-4, 0.1, log=True),
        "model.experts": Range(2, 6, step=4, integer=True),  # 8 is not on the grid
        "model.layers": Choices(([8], [16, 8])),
        "balancer.alpha": Range(0, 1),
        "trainer.epochs": Choices((1, 2)),
    }


SPACE = """
balancer:
  Sum:
  GradNorm: {alpha: {low: 0.5, high: 3.0}}
  FixedWeights: {task_weights.*: {low: 0.1, high: 10, log: true}}
trainer.optimization.optimizer: {Adam: {}, SGD: {momentum: [0.0, 0.9]}}
"""


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"balancer": "Sum", "trainer.optimization.optimizer": "Adam"}, {"balancer": "Sum"}),
        (
            {"balancer": "GradNorm", "balancer.GradNorm.alpha": 2.0, "trainer.optimization.optimizer": "Adam"},
            {"balancer": "GradNorm", "alpha": 2.0},
        ),
        (
            {
                "balancer": "FixedWeights",
                "balancer.FixedWeights.task_weights.cvr": 0.5,
                "balancer.FixedWeights.task_weights.buy": 4.0,
                "trainer.optimization.optimizer": "SGD",
                "trainer.optimization.optimizer.SGD.momentum": 0.9,
            },
            {"balancer": "FixedWeights", "task_weights": {"cvr": 0.5, "buy": 4.0}},
        ),
    ],
)
def test_options_of_a_class_are_searched_where_it_is_chosen(chosen: dict[str, Any], expected: dict[str, Any]) -> None:
    space, seeded = parsed(SPACE), list[str]()
    found = space.suggest(FixedTrial(chosen), seeded.append)
    assert found == chosen
    assert seeded == list(chosen)
    config = parse_recipe(PARSER, space.arguments(found))
    assert config.balancer.class_path.rpartition(".")[2] == expected.pop("balancer")
    assert {name: config.balancer.init_args[name] for name in expected} == expected
    momentum = chosen.get("trainer.optimization.optimizer.SGD.momentum")
    assert momentum is None or config.trainer.optimization.optimizer.init_args.momentum == momentum


def test_entries_of_a_mapping_that_are_not_searched_stay_as_in_the_recipe() -> None:
    named = {"model": "MMOE", "balancer": "FixedWeights"}
    content = {"balancer.task_weights.cvr": {"low": 0.1, "high": 1.0}}
    space = SearchSpace.parse(content, PARSER, named, TASKS, {"balancer.task_weights.ctr": 3.0})
    assert space.arguments({"balancer.task_weights.cvr": 0.25}) == ['--balancer.task_weights={"ctr": 3.0, "cvr": 0.25}']


def test_a_space_comes_back_from_its_record() -> None:
    space = parsed(SPACE + "model.layers: [[8], [16, 8]]\n")
    assert tuple(map(SearchOption.of_record, space.record())) == space.options


def test_lists_are_one_value_in_a_study() -> None:
    study = optuna.create_study()
    trial = study.ask()
    found = parsed("model.layers: [[8], [16, 8]]").suggest(trial, lambda name: None)
    assert found["model.layers"] in ([8], [16, 8])
    assert trial.params["model.layers"] in ("[8]", "[16, 8]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.layer: [[8]]", "MMOE has no option `model.layer`; did you mean `model.layers`?"),
        ("nosuch.key: [1]", "`recmtl tune` has no option `nosuch.key`: `recmtl tune --help` lists them"),
        ("balancer: {GradNorn: {}}", "there is no balancer 'GradNorn'; did you mean 'GradNorm'?"),
        ("balancer: {PCGrad: {alpha: [1.0]}}", "PCGrad has no option `balancer.alpha`"),
        ("{}", "the search space is empty"),
        ("balancer.alpha: {low: 2, high: 1}", "the range is empty: `low` must be below `high`, got 2 and 1"),
        ("balancer.alpha: {low: 1, high: 1}", "the range is empty"),
        ("balancer.alpha: {low: 1}", "`balancer.alpha`: a range needs `high`"),
        ("balancer.alpha: {low: 1, high: 2, lgo: true}", "a range has low, high, log, step, got 'lgo'"),
        ("balancer.alpha: {low: 0, high: 2, log: true}", "with `log`, `low` must be above 0, got 0"),
        ("balancer.alpha: {low: 1, high: 2, log: true, step: 1}", "a logarithmic range has no step"),
        ("balancer.alpha: {low: 1, high: 2, step: 3}", "it must be above 0 and at most 1"),
        ("balancer.alpha: {low: a, high: 2}", "`low` must be a number, got 'a'"),
        ("model.experts: {low: 1.5, high: 2}", "`model.experts` must be an integer"),
        ("model.layers: {low: 1, high: 2}", "`model.layers` must be a list"),
        ("balancer.alpha: []", "the list is empty"),
        ("balancer.alpha: [1.0, 1.0]", "`balancer.alpha` must have different choices"),
        ("balancer.alpha: [big]", "`balancer.alpha` must be a number, got 'big'"),
        ("balancer.alpha: 2.0", "`balancer.alpha` must be a range such as"),
        ("data.holdout: [0.1, 0.2]", "`data.holdout` cannot be searched: all trials see the same rows"),
        ("trainer: {stopping: {patience: [1, 2]}}", "`trainer.stopping` cannot be searched: trials are compared by it"),
        ("trainer.run.seed: [1, 2]", "`trainer.run.seed` cannot be searched"),
        ("{balancer: [Sum, GradNorm], balancer.alpha: [1.0]}", "`balancer.alpha` must stand under the class"),
        ("{trainer.epochs: [1], trainer: {epochs: [2]}}", "`trainer.epochs` is in the search space 2 times"),
    ],
)
def test_what_cannot_be_searched_is_said(text: str, message: str) -> None:
    with pytest.raises(UsageError) as found:
        parsed(text)
    assert message in str(found.value)


def test_the_weights_of_one_task_are_relative_to_nothing() -> None:
    content = {"balancer": {"FixedWeights": {"task_weights.*": [1.0]}}}
    with pytest.raises(UsageError, match="there is one task"):
        SearchSpace.parse(content, PARSER, NAMED, ["ctr"], {})


@pytest.mark.parametrize("name", [name for name in known_names("balancer") if getattr(recmtl, name).search_space])
def test_every_balancer_takes_the_ends_of_its_default_ranges(name: str) -> None:
    cls = getattr(recmtl, name)
    ranges = {f"balancer.{key}": value for key, value in cls.search_space.items()}
    space = SearchSpace.parse(ranges, PARSER, {"model": "MMOE", "balancer": name}, TASKS, {})
    for option in space.options:
        key = option.key.removeprefix("balancer.")
        for value in (
            option.values.values if isinstance(option.values, Choices) else (option.values.low, option.values.high)
        ):
            cls(**{key: value} if option.mapping is None else {"task_weights": {key.rpartition(".")[2]: value}})


def test_a_variant_searches_what_stands_under_its_classes_and_else_the_default() -> None:
    content = {
        "trainer.epochs": [1, 2],
        "balancer": {"PCGrad": {"scope": ["part"]}},
        "model": {"PLE": {"experts": [2]}},
    }
    default = {"balancer.alpha": [1.0]}
    general = {"trainer.epochs": [1, 2]}
    assert space_of_variant(content, "MMOE", "GradNorm", default) == default | general
    assert space_of_variant(content, "MMOE", "PCGrad", default) == general | {"balancer.scope": ["part"]}
    assert space_of_variant(content, "PLE", "GradNorm", default) == default | general | {"model.experts": [2]}
