"""IMTL-L: the scales' first step by hand, and their optimum."""

import math

import pytest
import torch

from recmtl.balance import IMTLL


def step(balancer, *values):
    x = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
    balancer.backward([v + x[k] if v else x[k] * 0.0 for k, v in enumerate(values)], shared=[x])
    return x.grad


def test_first_steps_by_hand():
    # slopes 3 − 1 and ¼ − 1: Adam's first step is ∓lr; the model's step comes first
    balancer = IMTLL(lr=0.1)
    assert step(balancer, 3.0, 0.25).tolist() == [1.0, 1.0]
    torch.testing.assert_close(balancer.weights.log(), torch.tensor([-0.1, 0.1], dtype=torch.float64))
    found = step(balancer, 3.0, 0.25)
    torch.testing.assert_close(found, torch.tensor([-0.1, 0.1], dtype=torch.float64).exp())
    assert balancer.adam.mean[0].item() == pytest.approx(0.9 * 0.2 + 0.1 * (3 * math.exp(-0.1) - 1))


@pytest.mark.parametrize("values", [(0.01, 1.0, 30.0), (5.0, 5.0, 0.2)])
def test_all_scaled_losses_become_1(values):
    balancer = IMTLL(lr=0.05)
    for _ in range(800):
        step(balancer, *values)
    scaled = balancer.weights * torch.tensor(values, dtype=torch.float64)
    torch.testing.assert_close(scaled, torch.ones(3, dtype=torch.float64), rtol=0.05, atol=0)


def test_an_absent_task_keeps_its_scale():
    balancer = IMTLL()
    step(balancer, 2.0, 2.0)
    before = balancer.weights
    step(balancer, 2.0, 0.0)
    assert balancer.weights[1] == before[1]
    assert balancer.adam.updates.tolist() == [2, 1]


@pytest.mark.parametrize("lr", [0.0, -1.0, float("inf")])
def test_refuses_a_rate_out_of_range(lr):
    with pytest.raises(ValueError, match="`lr` must be positive"):
        IMTLL(lr)
