"""FixedWeights is the sum of the losses with given weights."""

import pytest
import torch

from recmtl.balance import FixedWeights


def test_weights_shared_and_private_gradients_by_name():
    shared = torch.tensor([1.0, 2.0], requires_grad=True)
    a, b = torch.tensor(3.0, requires_grad=True), torch.tensor(4.0, requires_grad=True)
    balancer = FixedWeights({"cvr": 0.5})
    balancer.backward({"ctr": a * shared[0], "cvr": b * shared.prod()}, shared=[shared])
    assert shared.grad.tolist() == [3 + 0.5 * 4 * 2, 0.5 * 4 * 1]
    assert (a.grad.item(), b.grad.item()) == (1.0, 0.5 * 2)
    assert balancer.weights.tolist() == [1.0, 0.5]


def test_a_weight_of_zero_trains_a_task_not_at_all():
    x, y = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    FixedWeights([0, 3]).backward([x.sum(), y.sum()], shared=[x, y])
    assert (x.grad.item(), y.grad.item()) == (0.0, 3.0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -1.0], "`task_weights` must hold numbers that are at least 0"),
        ([0.0, 0.0], "`task_weights` must hold a number above 0"),
        ({}, "`task_weights` must hold one number per task"),
        ({"ctr": torch.nan}, "`task_weights` must hold numbers that are at least 0"),
    ],
)
def test_refuses_weights_out_of_range(weights, message):
    with pytest.raises(ValueError, match=message):
        FixedWeights(weights)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, 2.0, 3.0], "one number for each of 2 tasks, got 3"),
        ({"buy": 2.0}, r"weights of the tasks \['ctr', 'cvr'\], got one of 'buy'"),
    ],
)
def test_refuses_weights_of_other_tasks(weights, message):
    x = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match=message):
        FixedWeights(weights).backward({"ctr": x, "cvr": 2 * x}, shared=[x])


def test_named_weights_need_losses_with_names():
    x = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="must hold weights of losses with names, got one of 'ctr'"):
        FixedWeights({"ctr": 2.0}).backward([x, x], shared=[x])
