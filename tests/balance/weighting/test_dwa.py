"""DWA: the mean losses of epochs by hand, and what ends one."""

import math

import pytest
import torch

import recmtl
from recmtl.balance import DWA


def step(balancer, *values):
    x = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
    balancer.backward([v + x[k] if v else x[k] * 0.0 for k, v in enumerate(values)], shared=[x])
    return x.grad


def test_weights_by_hand():
    balancer = DWA(temperature=0.5)
    for values in ((3.0, 1.0), (1.0, 3.0)):  # means 2 and 2
        assert step(balancer, *values).tolist() == [1.0, 1.0]
    balancer.end_epoch()
    for values in ((1.5, 1.0), (0.5, 1.0), (1.0, 4.0)):  # means 1 and 2: r = ½, 1
        assert step(balancer, *values).tolist() == [1.0, 1.0]
    balancer.end_epoch()
    e = math.e
    expected = torch.tensor([2 * e / (e + e**2), 2 * e**2 / (e + e**2)], dtype=torch.float64)
    torch.testing.assert_close(step(balancer, 1.0, 1.0), expected)
    torch.testing.assert_close(balancer.weights, expected)


def test_without_ends_of_epochs_it_is_the_sum():
    balancer = DWA()
    for loss in (4.0, 2.0, 1.0):
        assert step(balancer, loss, 1.0).tolist() == [1.0, 1.0]


def test_an_absent_task_does_not_count_as_a_loss_of_0():
    balancer = DWA()
    for values in ((2.0, 0.0, 1.0), (4.0, 0.0, 1.0)):
        step(balancer, 1.0, 0.0, 5.0)
        step(balancer, *values)
        balancer.end_epoch()
    expected = 2 * (torch.tensor([2.5 / 1.5, 1.0], dtype=torch.float64) / 2).softmax(0)
    torch.testing.assert_close(balancer.weights, torch.stack([expected[0], torch.ones(()).double(), expected[1]]))
    assert balancer.epochs.tolist() == [2, 0, 2]


def test_an_epoch_may_end_before_any_step():
    balancer = DWA()
    balancer.end_epoch()
    assert balancer.weights is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_step_that_the_scaler_skipped_is_in_no_epoch(value):
    balancer = DWA()
    scaler = balancer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for values in ((1.0, 1.0), (value, 1.0)):
        x = torch.zeros(2, requires_grad=True)
        optimizer = torch.optim.SGD([x], lr=0.0)
        balancer.backward([scaler.scale(v + v * x[k]) for k, v in enumerate(values)], shared=[x])
        scaler.step(optimizer)
        scaler.update()
    balancer.end_epoch()
    assert balancer.history[:, 1].tolist() == [1.0, 1.0]
    assert balancer.epochs.tolist() == [1, 1]


def test_the_trainer_ends_epochs(aliexpress: recmtl.PreparedData):
    balancer = DWA()
    model = recmtl.SharedBottom(aliexpress.schema, layers=[4], tower_layers=[4])
    run = recmtl.RunConfig(progress=False, device="cpu", log_every=1)
    options = recmtl.Optimization(batch_size=len(aliexpress.train) // 3 + 1)
    trainer = recmtl.Trainer(model, balancer, epochs=3, optimization=options, run=run).fit(aliexpress.train)
    assert balancer.epochs.tolist() == [3, 3]
    assert balancer.steps.tolist() == [0, 0]
    losses = [list(record["loss"].values()) for record in trainer.result.records]
    means = torch.tensor(losses).view(3, 3, 2).mean(1)  # [epochs, K]
    torch.testing.assert_close(balancer.history.T, means[1:])
    used = torch.tensor([list(record["weight"].values()) for record in trainer.result.records])
    torch.testing.assert_close(used[5], 2 * (means[1] / means[0] / 2).softmax(0))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_refuses_a_temperature_out_of_range(temperature):
    with pytest.raises(ValueError, match="`temperature` must be positive"):
        DWA(temperature)


@pytest.mark.parametrize("means", [(1.0, -1.0), (-1.0, 1.0), (1e-30, 1e20)])
def test_a_task_whose_ratio_says_nothing_has_weight_1(means):
    x, balancer = torch.zeros(3, requires_grad=True), DWA()
    for first, second, third in zip(means, (2.0, 1.0), (2.0, 2.0), strict=True):
        balancer.backward([first + x[0], second + x[1], third + x[2]], shared=[x])
        balancer.end_epoch()
    expected = 2 * (torch.tensor([0.5, 1.0]) / 2).softmax(0)
    torch.testing.assert_close(balancer.weights, torch.cat([torch.ones(1), expected]))
