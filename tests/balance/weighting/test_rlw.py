"""RLW: weights from normal numbers that a seed and a counter decide."""

import math

import pytest
import torch

from recmtl.balance import RLW
from recmtl.balance.counter_generator import CounterGenerator


def weights(balancer, steps, values=(1.0, 2.0, 4.0)):
    found = []
    for _ in range(steps):
        x = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
        balancer.backward([v + x[k] if v else x[k] * 0.0 for k, v in enumerate(values)], shared=[x])
        found.append(x.grad)
    return torch.stack(found)  # [steps, K]


def test_weights_are_the_softmax_of_normal_numbers_with_sum_k():
    found = weights(RLW(seed=1), 2000)
    torch.testing.assert_close(found.sum(1), torch.full((2000,), 3.0, dtype=torch.float64))
    torch.testing.assert_close(found.mean(0), torch.ones(3, dtype=torch.float64), rtol=0.1, atol=0)
    difference = found[:, 0].log() - found[:, 1].log()  # of two standard normal numbers
    assert difference.std().item() == pytest.approx(math.sqrt(2), rel=0.05)


def test_an_absent_task_takes_no_part():
    found = weights(RLW(), 50, (1.0, 0.0, 4.0))
    torch.testing.assert_close(found.sum(1), torch.full((50,), 2.0, dtype=torch.float64))
    assert found[:, 1].eq(0).all()


def test_seeds_and_steps_differ_and_a_seed_repeats():
    first, again, other = (weights(RLW(seed), 3) for seed in (0, 0, 1))
    assert first.equal(again)
    assert not first.eq(other).any()
    assert not first[0].eq(first[1]).any()


def test_normal_numbers_of_the_counter():
    numbers = CounterGenerator(3).normal(100_000)
    assert numbers.mean().item() == pytest.approx(0, abs=0.015)
    assert numbers.std().item() == pytest.approx(1, abs=0.01)
    assert numbers.pow(4).mean().item() == pytest.approx(3, abs=0.1)
    assert torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1].abs() < 0.015


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_refuses_a_seed_out_of_range(seed):
    with pytest.raises(ValueError, match="`seed` must be"):
        RLW(seed)
