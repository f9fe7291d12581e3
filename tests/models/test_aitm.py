"""AITM beside a naive twin from the paper's equations, in float64."""

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

import recmtl
from recmtl.data import Batch, Loader
from recmtl.models import AITM

CHAIN = recmtl.Funnel("click", "cart", "buy")
TREE = recmtl.Funnel(parents={"click": None, "like": "click", "cart": "click", "buy": "cart"})
TASKS = [recmtl.Task("click", "click"), recmtl.Task("buy", "buy")]


def fitted(funnel: recmtl.Funnel, *tasks: recmtl.Task) -> recmtl.PreparedData:
    rows = pd.DataFrame({"x": [0.1 * i for i in range(40)], "click": [i % 2 for i in range(40)]})
    rows["cart"], rows["buy"] = [int(i % 4 == 1) for i in range(40)], [int(i % 8 == 1) for i in range(40)]
    rows["like"] = [int(i % 6 == 1) for i in range(40)]
    schema = recmtl.Schema([recmtl.Numeric("x")], tasks or TASKS, funnel=funnel)
    return recmtl.prepare(schema, rows, holdout=0)


@pytest.fixture(scope="module", params=[CHAIN, TREE], ids=["chain", "tree"])
def data(request: pytest.FixtureRequest) -> recmtl.PreparedData:
    """A funnel of three steps, or a tree."""
    return fitted(request.param)


def naive_views(model: AITM, x: torch.Tensor, funnel: recmtl.Funnel) -> list[torch.Tensor]:
    """One row and one step at a time; h_1, h_2 and h_3 by themselves."""
    views: list[list[torch.Tensor]] = []
    for row in x:
        z: dict[str, torch.Tensor] = {}
        passed = 0
        for (label, before), bottom in zip(funnel.steps, model.bottoms, strict=True):
            q = bottom(row[None])[0]
            if before is None:
                z[label] = q
                continue
            weight, bias = model.attention[passed].weight.chunk(3), model.attention[passed].bias.chunk(3)
            vectors = [model.passed_on[passed](z[before][None])[0], q]
            h = [[w @ u + b for u in vectors] for w, b in zip(weight, bias, strict=True)]
            scores = [math.exp(float(h[0][u] @ h[1][u]) / math.sqrt(len(q))) for u in range(2)]
            z[label] = sum(scores[u] / sum(scores) * h[2][u] for u in range(2))
            passed += 1
        views.append([*z.values()])
    return [torch.stack(step) for step in zip(*views, strict=True)]


@torch.no_grad()
def test_views_are_those_of_the_papers_equations(data: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    model, funnel = AITM(data.schema, layers=[6, 4]).double(), data.schema.schema.funnel
    assert list(model.heads) == [step.joint.name for step in data.schema.schema.funnel_rates]
    batch = next(Loader(data.train, 8).epoch())
    batch = dataclasses.replace(batch, numeric=batch.numeric.double())
    found = model.trunk(batch)
    for view, expected in zip(found, naive_views(model, model.encoder(batch), funnel), strict=True):
        torch.testing.assert_close(view, expected)


def test_the_penalty_counts_what_exceeds_the_step_before(data: recmtl.PreparedData) -> None:
    model = AITM(data.schema, penalty_weight=0.5)
    labels = torch.zeros(2, 4)
    batch = Batch(torch.zeros(2, 0, dtype=torch.int32), torch.zeros(2, 1), labels, weight=torch.tensor([3.0, 1.0]))
    p = {"click": [0.5, 0.1], "cart": [0.7, 0.4], "buy": [0.2, 0.5], "like": [0.4, 0.3]}
    logits = {name: torch.logit(torch.tensor(values)) for name, values in p.items()}
    # row 0: 0.2; row 1: 0.3 + 0.1, and in the tree 0.2 of the like, which follows the click
    second = 0.4 if data.schema.schema.funnel == CHAIN else 0.6
    assert model.penalty(logits, batch).item() == pytest.approx(0.5 * (3 * 0.2 + 1 * second) / 4)
    without = AITM(data.schema, penalty_weight=0)
    assert without.penalty(logits, batch) is None


def test_only_last_steps_have_layers_of_their_own(data: recmtl.PreparedData) -> None:
    model = AITM(data.schema, layers=[4])
    shared = {id(shared.tensor) for shared in model.shared().tensors}
    own = {name.rpartition(".")[0] for name, p in model.named_parameters() if id(p) not in shared}
    before = {name for name in own if not name.startswith("heads.")}
    last = {"bottoms.2.layers.0", "passed_on.1.layers.0", "attention.1"}
    if data.schema.schema.funnel == TREE:  # click, like, cart, buy
        last = {"bottoms.1.layers.0", "passed_on.0.layers.0", "attention.0"}
        last |= {"bottoms.3.layers.0", "passed_on.2.layers.0", "attention.2"}
    assert before == last


def test_training_logs_the_penalty(aliexpress: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    model = AITM(aliexpress.schema, layers=[8], tower_layers=[])
    optimization = recmtl.Optimization(batch_size=256)
    run = recmtl.RunConfig(progress=False, device="cpu", log_every=1)
    trainer = recmtl.Trainer(model, epochs=1, optimization=optimization, run=run).fit(aliexpress.train)
    losses = [record["loss"] for record in trainer.result.records if "loss" in record]
    assert [list(loss) for loss in losses] == [["ctr", "ctcvr", "penalty"]] * len(losses)
    assert all(loss["penalty"] >= 0 for loss in losses)


def test_without_a_penalty_measured_steps_name_the_losses_of_the_tasks(aliexpress: recmtl.PreparedData) -> None:
    for weight, names in ((0.0, ["ctr", "ctcvr"]), (0.6, ["ctr", "ctcvr", "penalty"])):
        model = AITM(aliexpress.schema, layers=[8], tower_layers=[], penalty_weight=weight)
        optimization = recmtl.Optimization(batch_size=1000)
        run = recmtl.RunConfig(progress=False, device="cpu")
        trainer = recmtl.Trainer(model, epochs=1, gradient_stats_every=1, optimization=optimization, run=run)
        measured = [r["diagnosis"]["loss"] for r in trainer.fit(aliexpress.train).result.records if "diagnosis" in r]
        assert [list(loss) for loss in measured] == [names] * len(measured)
        assert measured


def test_a_task_named_like_the_penalty_is_refused() -> None:
    schema = fitted(CHAIN, recmtl.Task("click", "click"), recmtl.Task("penalty", "buy")).schema
    with pytest.raises(ValueError, match="logged as the loss 'penalty': rename that task"):
        recmtl.Trainer(AITM(schema, layers=[4]))


def test_conditional_rates_are_no_steps_but_follow(aliexpress: recmtl.PreparedData, csv: Path) -> None:
    tasks = recmtl.Task("click", "click"), recmtl.Task("rate", "conversion", given="click")
    schema = dataclasses.replace(aliexpress.schema, schema=dataclasses.replace(aliexpress.schema.schema, tasks=tasks))
    model = AITM(schema, layers=[4], tower_layers=[])
    assert [task.name for task in model.objectives] == ["click", "ctcvr"]
    trainer = recmtl.Trainer(model, run=recmtl.RunConfig(device="cpu", progress=False))
    predicted = trainer.predict(csv / "test.csv")
    assert (predicted["rate"] * predicted["click"]).tolist() == pytest.approx(predicted["ctcvr"].tolist())


def test_says_what_is_wrong() -> None:
    schema = fitted(CHAIN).schema
    for options, message in (
        ({"layers": []}, "at least one layer, got none"),
        ({"penalty_weight": -1.0}, "at least 0, got -1.0"),
        ({"towers": {"cart_given_click": torch.nn.Identity}}, "`towers` must name heads .click, cart, buy., got"),
    ):
        with pytest.raises(ValueError, match=message):
            AITM(schema, **options)


def test_needs_a_funnel_and_no_other_task(small: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match="AITM predicts only the tasks of the funnel, got a schema with task 'stay'"):
        AITM(small.schema)
    schema = dataclasses.replace(small.schema, schema=dataclasses.replace(small.schema.schema, funnel=None))
    with pytest.raises(ValueError, match=r"needs a schema with a `funnel`, .*`--funnel click conversion`"):
        AITM(schema)


def test_the_task_of_a_step_must_be_binary() -> None:
    amount = recmtl.Task("paid", "buy", kind="regression")
    schema = recmtl.Schema([recmtl.Numeric("x")], [recmtl.Task("click", "click"), amount], funnel=CHAIN)
    for model in (AITM, recmtl.ESMM, recmtl.ESCM2):
        said = rf"^{model.__name__} .* the kind of task 'paid', with the label 'buy' of a step, must be binary"
        with pytest.raises(ValueError, match=said):
            model.check_schema(schema)
