"""GradDrop against hand-worked numbers and its invariants; the twin of the paper runs in the contracts."""

import pytest
import torch

from recmtl.balance import GradDrop


def pull(balancer, views, *gradients):
    """What each view receives when the heads' inputs have the given gradients."""
    views = [view.clone().requires_grad_() for view in views]
    torch.autograd.backward(balancer.fork(views), gradients)
    return [view.grad for view in views]


def drawn(monkeypatch, balancer, *numbers):
    monkeypatch.setattr(balancer.random, "uniform", lambda count: torch.tensor(numbers, dtype=torch.float64))


def test_one_step_by_hand(monkeypatch):
    balancer = GradDrop(leak=[0.0, 0.5])
    drawn(monkeypatch, balancer, 0.5, 0.7, 0.9)
    view = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]])
    # s = (3, 2, −1) and (−1, −1, −1): P = (1 + 2/4)/2 = ¾, (1 + ⅓)/2 = ⅔, 0: the first feature keeps what is positive
    a = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 0.0]])
    b = torch.tensor([[-1.0, 0.0, 0.0], [0.0, 1.0, 1.0]])
    first, second = pull(balancer, [view, view], a, b)
    torch.testing.assert_close(first, a * torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(second, b * torch.tensor([0.5, 1.0, 1.0]))
    torch.testing.assert_close(balancer.weights, torch.tensor([2 / 3, 2 / 3]))


def test_tasks_that_agree_are_those_of_the_plain_sum():
    view, g = torch.rand(4, 5) + 0.1, torch.rand(4, 5)
    for _ in range(3):
        found = pull(balancer := GradDrop(), [view] * 2, g, 3 * g)
        torch.testing.assert_close(found, [g, 3 * g])
        assert balancer.weights.tolist() == [1.0, 1.0]


def test_the_mean_of_many_draws_is_each_gradient_times_the_probability_of_its_sign():
    balancer, view = GradDrop(seed=3), torch.ones(1, 2000, dtype=torch.float64)
    a, b = pull(balancer, [view] * 2, 3 * view, -view)
    assert a.mean().item() == pytest.approx(3 * 0.75, abs=0.1)
    assert b.mean().item() == pytest.approx(-0.25, abs=0.04)
    assert ((a == 0) != (b == 0)).all()


def test_each_step_draws_anew_and_one_without_gradients_draws_nothing():
    balancer, view = GradDrop(), torch.ones(1, 64)
    first = pull(balancer, [view] * 2, view, -view)[0]
    again = balancer.random.generator.clone()
    pull(balancer, [view] * 2, 0 * view, 0 * view)
    assert balancer.random.generator.equal(again)
    assert not pull(balancer, [view] * 2, view, -view)[0].equal(first)


@pytest.mark.parametrize(
    ("leak", "message"),
    [
        (-0.1, r"`leak` must be in \[0, 1\], got -0.1"),
        ([0.5, 2.0], r"`leak` must be in \[0, 1\]"),
        ([], "`leak` must hold one number per task"),
        (None, "`leak` must hold one number per task, got None"),
    ],
)
def test_refuses_a_leak_out_of_range(leak, message):
    with pytest.raises(ValueError, match=message):
        GradDrop(leak=leak)


def test_refuses_a_leak_of_another_length_and_views_of_different_shapes():
    with pytest.raises(ValueError, match="`leak` must hold one number for each of 2 tasks, got 3"):
        GradDrop(leak=[0.0, 0.0, 0.0]).fork([torch.ones(1, 2)] * 2)
    with pytest.raises(ValueError, match="views must share one shape"):
        GradDrop().fork([torch.ones(1, 2), torch.ones(1, 3)])
