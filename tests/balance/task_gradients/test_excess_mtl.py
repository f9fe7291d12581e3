"""ExcessMTL: two steps by hand, the state of tables, and noise against a task that learns."""

import math

import pytest
import torch

from recmtl.balance import ExcessMTL, SharedTensor


def step(balancer, *slopes, shared=None):
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    losses = [(x * torch.tensor(slope, dtype=torch.float64)).sum() for slope in slopes]
    balancer.backward(losses, shared=[x] if shared is None else [shared(x)])
    return x.grad


def test_two_steps_by_hand():
    balancer = ExcessMTL(lr=0.5)
    assert step(balancer, (3.0, 0.0), (0.0, 2.0)).tolist() == [3.0, 2.0]
    assert balancer.initial.tolist() == [3.0, 2.0]  # 9/√9, 4/√4
    # risks 16/√25, 4/√8; relative 16/15, 1/√2; weights ∝ exp of half of them
    first, second = math.exp(8 / 15), math.exp(0.5 / math.sqrt(2))
    expected = [2 * first / (first + second) * 4.0, 2 * second / (first + second) * 2.0]
    assert step(balancer, (4.0, 0.0), (0.0, 2.0)).tolist() == pytest.approx(expected, rel=1e-12)


def test_an_absent_task_takes_no_part_and_keeps_its_state():
    balancer = ExcessMTL()
    step(balancer, (3.0, 0.0), (1.0, 2.0))
    squares = balancer.squares.clone()
    assert step(balancer, (3.0, 0.0), (0.0, 0.0)).tolist() == [3.0, 0.0]  # the one weight is 1
    assert balancer.squares[1].equal(squares[1])
    assert balancer.logits[1] == 0


def test_the_scale_of_a_loss_has_no_effect_on_weights():
    weights = []
    for scale in (1.0, 1e6):
        balancer = ExcessMTL(lr=0.5)
        for slope in (1.0, 3.0, 0.2):
            step(balancer, (scale * slope, scale), (1.0, slope))
        weights.append(balancer.weights)
    torch.testing.assert_close(*weights)


def test_a_tensor_with_rows_of_parts_keeps_the_norms_of_parts_alone():
    balancer = ExcessMTL(lr=0.5)
    for slope in (2.0, 1.0):
        step(balancer, (3.0, slope), (0.0, 2.0), shared=lambda x: SharedTensor(x, 1, torch.tensor([0, 0])))
    assert balancer.squares.shape == (2, 1)
    torch.testing.assert_close(balancer.squares[:, 0], torch.tensor([9 + 4 + 9 + 1, 8.0], dtype=torch.float64))


def test_a_task_whose_gradients_are_noise_loses_weight_against_one_that_keeps_its_direction():
    """A constant gradient g adds g/√t to the risk; of the same size, the noise's entries add as much: equal weights."""
    balancer, random = ExcessMTL(lr=0.5), torch.Generator().manual_seed(0)
    for number in range(200):
        size = 1.0 / (1 + number)  # the second task converges
        step(balancer, (1.0, 1.0), tuple((size * torch.randn(2, generator=random)).tolist()))
    first, second = balancer.weights.tolist()
    assert first > 1.5 > 0.5 > second


def test_parts_of_one_state_are_those_of_the_tensors_in_order():
    a, b = torch.zeros(2, 2, requires_grad=True), torch.zeros(3, requires_grad=True)
    balancer = ExcessMTL()
    balancer.backward([a.sum() + 2 * b.sum(), 3 * b[0]], shared=[a, b])
    assert balancer.squares.tolist() == [[1.0] * 4 + [4.0] * 3, [0.0] * 4 + [9.0, 0.0, 0.0]]


@pytest.mark.parametrize("lr", [0.0, float("inf")])
def test_refuses_a_rate_out_of_range(lr):
    with pytest.raises(ValueError, match="`lr` must be positive"):
        ExcessMTL(lr)
