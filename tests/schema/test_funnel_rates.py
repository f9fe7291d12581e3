"""Rates of funnels: which follow from which, beside linear algebra on log-odds' logarithms, and what always holds."""

import itertools

import numpy as np
import pytest
import torch

from recmtl.schema import Funnel, Numeric, Schema, SchemaError, Task, consistent_rates, funnel_basis

CHAIN = Funnel("click", "cart", "pay")
TREE = Funnel(parents={"like": "click", "click": None, "share": "click", "follow": None, "gift": "share"})
FUNNELS = {"two steps": Funnel("click", "pay"), "chain": CHAIN, "tree": TREE}


def schema_of(funnel: Funnel, *tasks: Task) -> Schema:
    return Schema([Numeric("x")], [*tasks, Task("other", "y")], funnel=funnel)


def names(funnel: Funnel, *tasks: Task) -> list[str]:
    return [task.name for task in schema_of(funnel, *tasks).funnel_tasks]


def test_a_step_stands_behind_the_one_before_it() -> None:
    assert CHAIN.parents == {"click": None, "cart": "click", "pay": "cart"}
    assert TREE.labels == ("click", "like", "share", "follow", "gift")
    assert (TREE.ancestors("gift"), TREE.ancestors("click"), TREE.ancestors("y")) == (("share", "click"), (), ())
    assert Funnel(parents={"pay": "cart", "cart": "click", "click": None}) == CHAIN
    assert eval(repr(TREE)) == TREE
    assert eval(repr(CHAIN)) == CHAIN


@pytest.mark.parametrize("funnel", FUNNELS.values(), ids=FUNNELS)
def test_a_card_says_what_it_was_made_of(funnel: Funnel) -> None:
    schema = schema_of(funnel)
    card = schema.to_dict()
    assert card["funnel"] == (list(funnel.labels) if funnel != TREE else dict(TREE.parents))
    assert Schema.from_dict(card) == schema


def test_rates_are_named_as_the_user_names_them() -> None:
    assert names(Funnel("click", "pay")) == ["ctr", "cvr", "ctcvr"]
    assert names(CHAIN) == ["click", "cart_given_click", "cart", "pay_given_cart", "pay"]
    own = Task("p_pay", "pay"), Task("to_cart", "cart", given="click"), Task("sold", "pay", given="click")
    assert names(CHAIN, *own) == ["click", "to_cart", "cart", "pay_given_cart", "sold", "p_pay"]
    found = names(TREE, Task("shares", "share", given="click"), Task("no rate", "like", given="share"))
    assert found == ["click", "like_given_click", "like", "shares", "share", "follow", "gift_given_share", "gift"]
    spent = Task("pay", "pay", kind="regression")  # is no rate, and takes the name of one
    with pytest.raises(SchemaError, match="task 'pay' differs from the funnel's 'pay': rename the task"):
        names(CHAIN, spent)


def vector(task: Task, funnel: Funnel) -> list[float]:
    """The logarithm of a rate as a sum of those of conditional ones: 1 for each step from its condition to it."""
    path = [task.label, *funnel.ancestors(task.label)]
    path = path[: path.index(task.given)] if task.given else path
    return [float(label in path) for label in funnel.labels]


@pytest.mark.parametrize("funnel", FUNNELS.values(), ids=FUNNELS)
def test_all_that_follows_is_derived_and_nothing_else(funnel: Funnel) -> None:
    further = [Task("further", funnel.labels[-1], given="click")] if funnel != FUNNELS["two steps"] else []
    schema = schema_of(funnel, *further)
    tasks = {task.name: task for task in schema.funnel_tasks}
    conditional = np.random.default_rng(0).uniform(0.05, 1, (len(funnel.labels), 4))  # [steps, rows]
    truth = {name: np.exp(np.array(vector(task, funnel)) @ np.log(conditional)) for name, task in tasks.items()}
    for count in range(1, len(tasks) + 1):
        for predicted in itertools.combinations(tasks, count):
            rows = np.array([vector(tasks[name], funnel) for name in predicted])
            rank = np.linalg.matrix_rank(rows)
            follows = [t for t in tasks if np.linalg.matrix_rank([*rows, vector(tasks[t], funnel)]) == rank]
            given = {name: truth[name] for name in predicted} | {"other": np.ones(4)}
            found, lowered = consistent_rates(schema, given, np)
            assert [*found] == [*follows, "other"]
            for name in follows:
                np.testing.assert_allclose(found[name], truth[name], rtol=1e-12)
            assert not any(rows.any() for rows in lowered.values())
            basis = funnel_basis(schema, [*given])
            assert len(basis) == rank
            assert set(basis) <= set(predicted)
            for name in basis:
                if tasks[name].given == funnel.parents[tasks[name].label]:
                    np.testing.assert_array_equal(found[name], truth[name])  # to the last bit
    assert funnel_basis(schema, []) == ()


@pytest.mark.parametrize("funnel", FUNNELS.values(), ids=FUNNELS)
def test_rates_agree_whatever_is_predicted(funnel: Funnel) -> None:
    """Also where predictions contradict the funnel, or are 0; and numpy and torch give the same."""
    schema = schema_of(funnel)
    tasks, rng = {task.name: task for task in schema.funnel_tasks}, np.random.default_rng(1)
    for count in range(1, len(tasks) + 1):
        for predicted in itertools.combinations(tasks, count):
            given = {name: rng.choice([0.0, 1e-300, 0.2, 0.3, 0.5, 0.9, 1.0], 100) for name in predicted}
            found, lowered = consistent_rates(schema, given, np)
            for step in schema.funnel_rates:
                rates = [found.get(task.name) for task in (step.conditional, step.joint)]
                assert all(((rate >= 0) & (rate <= 1)).all() for rate in rates if rate is not None)
                before = next((s.joint.name for s in schema.funnel_rates if s.label == step.parent), None)
                if before in found and step.joint.name in found:
                    np.testing.assert_allclose(found[before] * rates[0], rates[1], rtol=0, atol=1e-12)
            for name in set(funnel_basis(schema, predicted)) - {*lowered}:
                if tasks[name].given == funnel.parents[tasks[name].label]:
                    assert (found[name] == given[name]).all(), name
            other = consistent_rates(schema, {n: torch.from_numpy(v) for n, v in given.items()}, torch)
            for one, two in zip((found, lowered), other, strict=True):
                assert [*one] == [*two]
                for name, value in one.items():
                    np.testing.assert_array_equal(value, two[name].numpy())


def test_what_is_not_known_is_not_hidden() -> None:
    schema = schema_of(Funnel("click", "pay"))
    found, _ = consistent_rates(schema, {"ctr": np.array([np.nan, 0.5]), "ctcvr": np.array([0.1, np.nan])}, np)
    assert np.isnan(found["cvr"]).all()
    assert np.isnan(found["ctcvr"]).all()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            "click",
            r"card.yaml: no `funnel`: expected labels in their order, such as \[click, cart, pay\], .* got 'click'",
        ),
        (["click"], r"a funnel needs at least two labels of which one follows another, got \['click'\]"),
        ({"click": None, "like": None}, "at least two labels of which one follows another"),
        (["click", "pay", "click"], "the label 'click' stands twice"),
        (["click", 7], "the labels of a funnel must be names of columns, got 7"),
        (["click", None], "must be names of columns, got None"),
        ({"click": ""}, "must be names of columns, got ''"),
        (
            {"pay": "click"},
            r"'pay' of a funnel follows 'click', which is none of its labels \(pay\): name it",
        ),
        ({"click": "click"}, "the labels click of a funnel follow each other in a circle"),
        ({"a": None, "b": "c", "c": "b"}, "the labels b, c of a funnel follow each other in a circle"),
    ],
)
def test_says_what_is_wrong(entry: object, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Funnel.from_card(entry, "card.yaml")


def test_says_what_is_wrong_in_python() -> None:
    with pytest.raises(SchemaError, match="labels in their order or `parents`, got both"):
        Funnel("click", parents={"click": None})
    with pytest.raises(SchemaError, match=r"`funnel` must be a funnel, such as .*, got \['click', 'pay'\]"):
        schema_of(["click", "pay"])
