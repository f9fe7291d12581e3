"""STCH against its function by autograd, its limits, and its options."""

import pytest
import torch

from recmtl.balance import STCH


def step(balancer, *values):
    x = torch.zeros(len(values), dtype=torch.float64, requires_grad=True)
    balancer.backward([v + x[k] if v else x[k] * 0.0 for k, v in enumerate(values)], shared=[x])
    return x.grad


def test_equals_the_gradient_of_the_function():
    values, p, z = ([0.7, 0.3, 1.1], [0.5, 2.0, 1.0], [0.1, 0.2, -0.3])
    losses = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    exponent = torch.tensor(p, dtype=torch.float64) * (losses - torch.tensor(z, dtype=torch.float64)) / 0.3
    (expected,) = torch.autograd.grad(0.3 * exponent.logsumexp(0), losses)
    balancer = STCH(0.3, p, z)
    torch.testing.assert_close(step(balancer, *values), expected, rtol=1e-12, atol=0)


def test_small_mu_is_the_largest_task_alone_and_large_mu_is_the_mean():
    assert step(STCH(mu=1e-6), 1.0, 3.0, 2.0).tolist() == pytest.approx([0, 1 / 3, 0])
    assert step(STCH(mu=1e6), 1.0, 3.0, 2.0).tolist() == pytest.approx([1 / 9] * 3, rel=1e-5)


def test_absent_tasks_take_no_part():
    found = step(STCH(), 1.0, 0.0, 1.2)
    torch.testing.assert_close(found[[0, 2]], step(STCH(), 1.0, 1.2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mu": 0.0}, "`mu` must be positive, got 0.0"),
        ({"mu": float("nan")}, "`mu` must be positive"),
        ({"preference": [1.0, -1.0]}, "`preference` must hold numbers that are above 0"),
        ({"preference": 1.0}, "`preference` must hold one number per task"),
        ({"reference": [float("inf")]}, "`reference` must hold numbers that are finite"),
        ({"reference": "ab"}, "`reference` must hold one number per task"),
        ({"preference": [1.0, 2.0], "reference": [1.0]}, "`reference` must hold one number for each of 2 tasks, got 1"),
    ],
)
def test_refuses_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        STCH(**options)


@pytest.mark.parametrize("name", ["preference", "reference"])
def test_refuses_a_vector_of_another_length(name):
    with pytest.raises(ValueError, match=f"`{name}` must hold one number for each of 3 tasks, got 2"):
        step(STCH(**{name: [1.0, 2.0]}), 1.0, 2.0, 3.0)
