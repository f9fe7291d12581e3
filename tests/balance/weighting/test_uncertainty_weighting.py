"""Uncertainty weighting: both kinds of tasks, their optimum, and how it learns of regressions."""

import pandas as pd
import pytest
import torch

import recmtl
from recmtl.balance import IMTLL, UncertaintyWeighting


def step(balancer, *values):
    x = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
    balancer.backward([v + x[k] if v else x[k] * 0.0 for k, v in enumerate(values)], shared=[x])
    return x.grad


def test_first_step_by_hand():
    # slopes ½ − 0.25 and ½ − ½·3: Adam's first step is ∓lr
    balancer = UncertaintyWeighting(regressions=[1], lr=0.1)
    assert step(balancer, 0.25, 3.0).tolist() == [1.0, 0.5]
    expected = torch.tensor([1.0, 0.5], dtype=torch.float64) * torch.tensor([0.1, -0.1], dtype=torch.float64).exp()
    torch.testing.assert_close(balancer.weights, expected)


def test_all_weighted_losses_become_one_half():
    balancer, values = UncertaintyWeighting(regressions=[2], lr=0.05), (0.01, 3.0, 20.0)
    for _ in range(800):
        step(balancer, *values)
    weighted = balancer.weights * torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(weighted, torch.full((3,), 0.5, dtype=torch.float64), rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("regressions", "factors"), [(["price"], [1.0, 0.5]), ([0], [0.5, 1.0]), ([], [1.0, 1.0]), (None, [1.0, 0.5])]
)
def test_regressions_by_name_by_position_or_from_the_tasks(regressions, factors):
    balancer = UncertaintyWeighting(regressions)
    sizes = {"objectives": 2, "heads": 2, "features": 3, "parts": 1}
    balancer.regression_names = ("price",)
    balancer.setup(**sizes, names=["ctr", "price"])
    assert balancer.weights.tolist() == factors
    again = UncertaintyWeighting(regressions)
    again.load_state_dict(balancer.state_dict())  # in a model that knows no tasks
    assert again.weights.tolist() == factors


def test_the_trainer_tells_which_tasks_are_regressions():
    rows = pd.DataFrame({"user": list("abcd") * 8, "click": [0, 1] * 16, "price": [float(i) for i in range(32)]})
    tasks = [recmtl.Task("ctr", "click"), recmtl.Task("price", "price", kind="regression")]
    data = recmtl.prepare(recmtl.Schema([recmtl.Categorical("user")], tasks), rows)
    model = recmtl.SharedBottom(data.schema, layers=[4], tower_layers=[4])
    trainer = recmtl.Trainer(model, UncertaintyWeighting(), run=recmtl.RunConfig(progress=False, device="cpu"))
    assert trainer.balancer.weights.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    ("regressions", "message"),
    [
        ("price", "`regressions` must be a list of names or positions, got 'price'"),
        (3, "`regressions` must be a list of names or positions, got 3"),
        ([True], "`regressions` must be a list of names or positions"),
        (["cost"], r"`regressions` must hold one of \['ctr', 'price'\], got 'cost'"),
        ([2], r"`regressions` must hold one of \['ctr', 'price'\], got 2"),
    ],
)
def test_refuses_regressions_that_are_no_loss(regressions, message):
    sizes = {"objectives": 2, "heads": 2, "features": 3, "parts": 1}
    with pytest.raises(ValueError, match=message):
        UncertaintyWeighting(regressions).setup(**sizes, names=["ctr", "price"])


@pytest.mark.parametrize("method", [IMTLL, UncertaintyWeighting])
def test_a_loss_below_0_is_left_out_and_counted(method):
    x, balancer = torch.zeros(2, requires_grad=True), method(lr=0.5)
    for _ in range(300):
        x.grad = None
        balancer.backward([2 + x[0], x[1] - 3], shared=[x])
    assert x.grad[1] == 0
    assert balancer.skipped.tolist() == [0, 300]
    assert balancer.adam.values[1] == 0
    alone = method(lr=0.5)
    y = torch.zeros(1, requires_grad=True)
    for _ in range(300):
        alone.backward([2 + y[0]], shared=[y])
    assert balancer.weights[0] == alone.weights[0]


def test_a_loss_whose_square_overflows_moves_no_weight():
    x, balancer = torch.zeros(2, requires_grad=True), IMTLL()
    for value in (2.0, 1e20, 2.0):
        balancer.backward([value + x[0], 2 + x[1]], shared=[x])
    assert balancer.adam.updates.tolist() == [2, 3]
    assert balancer.weights.isfinite().all()
