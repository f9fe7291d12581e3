"""AITM beside a naive twin from the paper's equations, in float64."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

import recmtl
from recmtl.data import Batch, Loader
from recmtl.models import AITM

TASKS = [recmtl.Task("click", "click"), recmtl.Task("cart", "cart"), recmtl.Task("buy", "buy")]


@pytest.fixture(scope="module")
def three() -> recmtl.PreparedData:
    """A funnel of three steps."""
    import pandas as pd

    rows = pd.DataFrame({"x": [0.1 * i for i in range(40)], "click": [i % 2 for i in range(40)]})
    rows["cart"], rows["buy"] = [int(i % 4 == 1) for i in range(40)], [int(i % 8 == 1) for i in range(40)]
    return recmtl.prepare(recmtl.Schema([recmtl.Numeric("x")], TASKS), rows, holdout=0)


def naive_views(model: AITM, x: torch.Tensor) -> list[torch.Tensor]:
    """One row and one step at a time; h_1, h_2 and h_3 by themselves."""
    views: list[list[torch.Tensor]] = []
    for row in x:
        z: list[torch.Tensor] = []
        for step, bottom in enumerate(model.bottoms):
            q = bottom(row[None])[0]
            if step == 0:
                z.append(q)
                continue
            weight, bias = model.attention[step - 1].weight.chunk(3), model.attention[step - 1].bias.chunk(3)
            vectors = [model.passed_on[step - 1](z[-1][None])[0], q]
            h = [[w @ u + b for u in vectors] for w, b in zip(weight, bias, strict=True)]
            scores = [math.exp(float(h[0][u] @ h[1][u]) / math.sqrt(len(q))) for u in range(2)]
            z.append(sum(scores[u] / sum(scores) * h[2][u] for u in range(2)))
        views.append(z)
    return [torch.stack(step) for step in zip(*views, strict=True)]


@torch.no_grad()
def test_views_are_those_of_the_papers_equations(three: recmtl.PreparedData) -> None:
    torch.manual_seed(0)
    model = AITM(three.schema, [task.name for task in TASKS], layers=[6, 4]).double()
    batch = next(Loader(three.train, 8).epoch())
    batch = dataclasses.replace(batch, numeric=batch.numeric.double())
    found = model.trunk(batch)
    for view, expected in zip(found, naive_views(model, model.encoder(batch)), strict=True):
        torch.testing.assert_close(view, expected)


def test_the_penalty_counts_what_exceeds_the_step_before(three: recmtl.PreparedData) -> None:
    model = AITM(three.schema, [task.name for task in TASKS], penalty_weight=0.5)
    labels = torch.zeros(2, 3)
    batch = Batch(torch.zeros(2, 0, dtype=torch.int32), torch.zeros(2, 1), labels, weight=torch.tensor([3.0, 1.0]))
    p = {"click": [0.5, 0.1], "cart": [0.7, 0.4], "buy": [0.2, 0.5]}
    logits = {name: torch.logit(torch.tensor(values)) for name, values in p.items()}
    # row 0: 0.2; row 1: 0.3 + 0.1
    assert model.penalty(logits, batch).item() == pytest.approx(0.5 * (3 * 0.2 + 1 * 0.4) / 4)
    without = AITM(three.schema, [task.name for task in TASKS], penalty_weight=0)
    assert without.penalty(logits, batch) is None


def test_only_the_last_step_has_layers_of_its_own(three: recmtl.PreparedData) -> None:
    model = AITM(three.schema, [task.name for task in TASKS], layers=[4])
    shared = {id(shared.tensor) for shared in model.shared().tensors}
    own = {name.rpartition(".")[0] for name, p in model.named_parameters() if id(p) not in shared}
    before = {name for name in own if not name.startswith("heads.")}
    assert before == {"bottoms.2.layers.0", "passed_on.1.layers.0", "attention.1"}


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


def test_a_task_named_like_the_penalty_is_refused(three: recmtl.PreparedData) -> None:
    tasks = [*TASKS[:2], recmtl.Task("penalty", "buy")]
    schema = dataclasses.replace(three.schema, schema=dataclasses.replace(three.schema.schema, tasks=tasks))
    with pytest.raises(ValueError, match="logged as the loss 'penalty': rename that task"):
        recmtl.Trainer(AITM(schema, [task.name for task in tasks], layers=[4]))


def test_a_cvr_of_the_funnel_is_no_step_but_follows(aliexpress: recmtl.PreparedData, csv: Path) -> None:
    tasks = recmtl.Task("click", "click"), recmtl.Task("rate", "conversion", given="click")
    schema = dataclasses.replace(aliexpress.schema, schema=dataclasses.replace(aliexpress.schema.schema, tasks=tasks))
    model = AITM(schema, layers=[4], tower_layers=[])
    assert [task.name for task in model.objectives] == ["click", "ctcvr"]
    trainer = recmtl.Trainer(model, run=recmtl.RunConfig(device="cpu", progress=False))
    predicted = trainer.predict(csv / "test.csv")
    assert (predicted["rate"] * predicted["click"]).tolist() == pytest.approx(predicted["ctcvr"].tolist())
    with pytest.raises(ValueError, match=r"all of the schema \(click, ctcvr\), each once, got \['ctcvr'\]"):
        AITM(schema, ["ctcvr"])


def test_a_task_beside_the_funnel_needs_steps(three: recmtl.PreparedData) -> None:
    with_funnel = dataclasses.replace(three.schema.schema, funnel=recmtl.Funnel("click", "buy"))
    schema = dataclasses.replace(three.schema, schema=with_funnel)
    message = r"all of the schema \(click, buy, cart\), each once, and by default they are \['click', 'buy'\]"
    with pytest.raises(ValueError, match=message):
        AITM(schema, layers=[4])
    assert list(AITM(schema, ["click", "cart", "buy"], layers=[4]).heads) == ["click", "cart", "buy"]


def wrong(schema: recmtl.FittedSchema, **options: object) -> AITM:
    return AITM(schema, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs a schema with a `funnel`, or `steps`"),
        (
            {"steps": ["click", "buy"]},
            r"two or more tasks, all of the schema \(click, cart, buy\), each once, got \['click', 'buy'\]",
        ),
        ({"steps": ["click", "cart", "buy", "pay"]}, "all of the schema"),
        ({"steps": "click"}, "must be a list of two or more tasks, .*, got 'click'"),
        ({"steps": ["click", "cart", "buy"], "layers": []}, "at least one layer, got none"),
        ({"steps": ["click", "cart", "buy"], "penalty_weight": -1.0}, "at least 0, got -1.0"),
    ],
)
def test_says_what_is_wrong(options: dict[str, object], message: str, three: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=message):
        wrong(three.schema, **options)


def test_refuses_conditions_and_regressions(small: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match="binary label in all rows, but task"):
        AITM(small.schema, [task.name for task in small.schema.schema.tasks])
