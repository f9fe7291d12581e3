import dataclasses
import math

import pandas as pd
import pytest
import torch

import recmtl
from recmtl.data import Loader
from recmtl.models.esmm import product_logit


def test_product_logit_is_exact_where_probabilities_underflow() -> None:
    a = torch.tensor([0.3, -200.0, 40.0, -3.0], dtype=torch.float64)
    b = torch.tensor([-1.2, -150.0, 40.0, 60.0], dtype=torch.float64)
    p = torch.sigmoid(a[:1]) * torch.sigmoid(b[:1])
    logits = product_logit(a, b)
    assert logits[0].item() == pytest.approx(torch.logit(p).item(), rel=1e-12)
    assert logits[1].item() == pytest.approx(-350.0)  # log p where p = e^-350
    assert logits[2].item() == pytest.approx(40 - math.log(2))  # 1 - p = 2·e^-40
    assert logits[3].item() == pytest.approx(-3.0)


def test_predicts_all_three_and_trains_on_ctr_and_ctcvr(aliexpress: recmtl.PreparedData) -> None:
    model = recmtl.ESMM(aliexpress.schema, tower_layers=[8])
    batch = next(Loader(aliexpress.train, 64).epoch())
    logits = model(batch)
    assert [t.name for t in model.objectives] == ["ctr", "ctcvr"]
    assert list(model.heads) == ["ctr", "cvr"]
    p = {name: torch.sigmoid(logit.double()) for name, logit in logits.items()}
    torch.testing.assert_close(p["ctcvr"], p["ctr"] * p["cvr"], rtol=1e-5, atol=0)


TREE = {"click": None, "like": "click", "cart": "click", "pay": "cart"}


@pytest.mark.parametrize("funnel", [recmtl.Funnel("click", "cart", "pay"), recmtl.Funnel(parents=TREE)])
def test_of_a_longer_funnel_each_step_has_a_tower_and_a_loss(funnel: recmtl.Funnel) -> None:
    """Joint rates are products along their paths, and a loss reaches the towers of its path alone."""
    rows = pd.DataFrame({"x": [0.1, 0.2, 0.3], "click": [1, 0, 1], "like": [1, 0, 0], "cart": [1, 0, 1]})
    rows["pay"] = [1, 0, 0]
    task = recmtl.Task("to_cart", "cart", given="click")
    schema = recmtl.Schema([recmtl.Numeric("x")], [task], funnel=funnel)
    data = recmtl.prepare(schema, rows, holdout=0)
    narrow = {"to_cart": lambda width: torch.nn.Linear(width, 1)}
    model = recmtl.ESMM(data.schema, tower_layers=[4], towers=narrow).double()
    rates = schema.funnel_rates
    assert list(model.heads) == [step.conditional.name for step in rates]
    assert isinstance(model.heads["to_cart"].tower, torch.nn.Linear)
    batch = next(Loader(data.train, 3).epoch())
    batch = dataclasses.replace(batch, numeric=batch.numeric.double(), labels=batch.labels.double())
    logits = model(batch)
    p = {name: torch.sigmoid(logit) for name, logit in logits.items()}
    losses = model.losses(logits, batch)
    assert list(losses) == [step.joint.name for step in rates]
    for step in rates:
        path = [step.label, *funnel.ancestors(step.label)]
        conditional = {s.label: s.conditional.name for s in rates}
        product = math.prod(p[conditional[label]] for label in path)
        torch.testing.assert_close(p[step.joint.name], product)
        label = torch.tensor(rows[step.label].to_numpy(float)[batch.numeric[:, 0].argsort().argsort().numpy()])
        naive = -(label * product.log() + (1 - label) * (1 - product).log()).mean()
        torch.testing.assert_close(losses[step.joint.name], naive)
        biases = [model.heads[conditional[label]].bias for label in funnel.labels]
        reached = torch.autograd.grad(losses[step.joint.name], biases, retain_graph=True, allow_unused=True)
        assert [grad is not None for grad in reached] == [label in path for label in funnel.labels]


def test_needs_a_funnel(small: recmtl.PreparedData) -> None:
    schema = dataclasses.replace(small.schema, schema=dataclasses.replace(small.schema.schema, funnel=None))
    with pytest.raises(ValueError, match="needs a schema with a `funnel`"):
        recmtl.ESMM(schema)


def test_refuses_tasks_beside_the_funnel(small: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match="task 'stay'"):
        recmtl.ESMM(small.schema)


def test_keeps_the_task_names_of_the_schema(aliexpress: recmtl.PreparedData) -> None:
    tasks = [recmtl.Task("clicks", "click"), recmtl.Task("orders", "conversion", given="click")]
    schema = dataclasses.replace(aliexpress.schema.schema, tasks=tasks)
    model = recmtl.ESMM(dataclasses.replace(aliexpress.schema, schema=schema), tower_layers=[4])
    assert list(model.heads) == ["clicks", "orders"]
    assert [t.name for t in model.objectives] == ["clicks", "ctcvr"]
