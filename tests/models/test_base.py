import dataclasses
import math

import pytest
import torch
from torch import nn

import recmtl
from recmtl.data import Loader
from recmtl.models.links import link_of
from recmtl.schema import LabelRate

CTR, STAY = recmtl.Task("ctr", "click"), recmtl.Task("stay", "stay", kind="regression")


@pytest.mark.parametrize(
    ("task", "rate", "bias"),
    [
        (CTR, LabelRate(1000, 0.2), math.log(0.25)),
        (CTR, LabelRate(1000, 0.0), math.log(0.5 / 999.5)),
        (CTR, LabelRate(1000, 1.0), math.log(999.5 / 0.5)),
        (CTR, LabelRate(0, 0.0), 0.0),
        (STAY, LabelRate(10, 3.5), 3.5),
    ],
)
def test_starting_bias(task: recmtl.Task, rate: LabelRate, bias: float) -> None:
    assert link_of(task).constant(task, rate, None).item() == pytest.approx(bias)


def test_an_own_tower_gets_the_bias_and_is_built_anew_for_each_model(aliexpress: recmtl.PreparedData) -> None:
    class Zero(nn.Module):
        def __init__(self, features: int) -> None:
            super().__init__()
            self.linear = nn.Linear(features, 1, bias=False)
            nn.init.zeros_(self.linear.weight)

        def forward(self, view: torch.Tensor) -> torch.Tensor:
            return self.linear(view)

    models = [recmtl.SharedBottom(aliexpress.schema, layers=[4], towers={"ctcvr": Zero}) for _ in range(2)]
    logits = models[0](next(Loader(aliexpress.train, 8).epoch()))["ctcvr"]
    rate = aliexpress.schema.rate(models[0].objectives[1]).mean
    torch.testing.assert_close(torch.sigmoid(logits), torch.full((8,), rate))
    assert models[0].heads["ctcvr"].tower is not models[1].heads["ctcvr"].tower


@pytest.mark.parametrize("shape", [(8, 2), (8, 1, 1), (1,)])
def test_a_tower_of_the_wrong_shape_is_named(aliexpress: recmtl.PreparedData, shape: tuple[int, ...]) -> None:
    class Wrong(nn.Module):
        def forward(self, view: torch.Tensor) -> torch.Tensor:
            return torch.zeros(shape)

    model = recmtl.SharedBottom(aliexpress.schema, layers=[4], towers={"ctr": lambda features: Wrong()})
    with pytest.raises(ValueError, match=r"tower of head 'ctr' must map \[8, 4\] to \[8\] or \[8, 1\]"):
        model(next(Loader(aliexpress.train, 8).epoch()))


def test_a_tower_without_a_gradient_is_named(aliexpress: recmtl.PreparedData) -> None:
    class Detached(nn.Linear):
        def forward(self, view: torch.Tensor) -> torch.Tensor:
            return super().forward(view).detach()

    towers = {"ctr": lambda features: Detached(features, 1)}
    model = recmtl.SharedBottom(aliexpress.schema, layers=[4], towers=towers)
    batch = next(Loader(aliexpress.train, 8).epoch())
    with pytest.raises(ValueError, match="tower of head 'ctr' has weights to train, but its output has no gradient"):
        model(batch)
    with torch.no_grad():
        model(batch)
    model.heads["ctr"].tower.requires_grad_(False)
    model(batch)


def test_towers_must_name_heads(aliexpress: recmtl.PreparedData) -> None:
    with pytest.raises(ValueError, match=r"`towers` must name heads \(ctr, ctcvr\), got 'cvr'"):
        recmtl.MMOE(aliexpress.schema, towers={"cvr": nn.Identity})


@pytest.mark.parametrize("name", ["c.tr", "keys"])
def test_a_task_cannot_have_a_name_that_no_module_can(aliexpress: recmtl.PreparedData, name: str) -> None:
    task = dataclasses.replace(aliexpress.schema.schema.tasks[0], name=name)
    schema = dataclasses.replace(aliexpress.schema.schema, tasks=[task])
    with pytest.raises(ValueError, match=f"a task cannot be named '{name}'"):
        recmtl.SharedBottom(dataclasses.replace(aliexpress.schema, schema=schema))
