"""GradVac against hand-worked numbers and its invariants; the twin of the paper runs in the contracts."""

import math

import pytest
import torch

from recmtl.balance import GradVac, PCGrad

DOUBLE = {"dtype": torch.float64}


def combined(balancer, *slopes):
    """The shared gradient when the tasks' gradients are `slopes`."""
    x = torch.zeros(len(slopes[0]), **DOUBLE, requires_grad=True)
    balancer.backward([(x * torch.tensor(slope, **DOUBLE)).sum() for slope in slopes], shared=[x])
    return x.grad


def test_the_second_step_turns_both_gradients_to_the_cosine_of_the_first():
    balancer = GradVac(beta=1.0, reduction="sum")
    combined(balancer, [1.0, 0.0], [1.0, 1.0])  # the cosine is 1/√2, and no conflict
    assert balancer.targets[0, 0, 1].item() == pytest.approx(math.sqrt(0.5))
    # orthogonal: (1, 0) becomes (1, 1), whose cosine with (0, 2) is 1/√2; (0, 2) becomes (2, 2)
    assert combined(balancer, [1.0, 0.0], [0.0, 2.0]).tolist() == pytest.approx([3.0, 3.0])
    assert balancer.targets[0, 0, 1].item() == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("tasks", [2, 3, 6])
def test_without_averages_it_is_pcgrad(tasks):
    random = torch.Generator().manual_seed(tasks)
    mine, theirs = GradVac(beta=0.0, seed=4), PCGrad(seed=4)
    for _ in range(5):
        slopes = torch.randn(tasks, 6, generator=random, **DOUBLE).tolist()
        torch.testing.assert_close(combined(mine, *slopes), combined(theirs, *slopes), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("other", [[2.0, 0.0], [-2.0, 0.0], [0.0, 0.0]])
def test_parallel_opposed_and_absent_gradients_stay_finite(other):
    balancer = GradVac(beta=1.0)
    for _ in range(3):
        found = combined(balancer, [1.0, 0.0], other)
        assert found.isfinite().all()
    assert balancer.targets.isfinite().all()


@pytest.mark.parametrize("beta", [-0.1, 1.1, math.nan])
def test_refuses_a_rate_out_of_range(beta):
    with pytest.raises(ValueError, match=r"`beta` must be in \[0, 1\]"):
        GradVac(beta=beta)
