"""PCGrad and the projections beneath it against hand-worked numbers, a sequential twin, and its invariants."""

import pytest
import torch
from twins import one_after_the_other

from recmtl.balance import PCGrad, Sum, project_conflicting
from recmtl.balance.task_gradients.projection import coefficients_in_order

DOUBLE = {"dtype": torch.float64}


def combined(balancer, *slopes):
    """The shared gradient when the tasks' gradients are `slopes`."""
    x = torch.zeros(len(slopes[0]), **DOUBLE, requires_grad=True)
    balancer.backward([(x * torch.tensor(slope, **DOUBLE)).sum() for slope in slopes], shared=[x])
    return x.grad.tolist()


@pytest.mark.parametrize(("reduction", "factor"), [("sum", 1.0), ("mean", 0.5)])
def test_two_tasks_by_hand(reduction, factor):
    # ⟨(2,0), (−1,1)⟩ = −2: (2,0) + 2/2·(−1,1) = (1,1); (−1,1) + 2/4·(2,0) = (0,1)
    assert combined(PCGrad(reduction), [2.0, 0.0], [-1.0, 1.0]) == pytest.approx([factor, 2 * factor], rel=1e-14)


def test_three_tasks_by_hand():
    # task 0 = (1,0) meets (−1,1), then (−1,−1): (½,½), then ⟨(½,½), (−1,−1)⟩ = −1 takes all of it; the other way alike
    gradients = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0]])
    order = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 0, 1]])
    found = project_conflicting(gradients, order)
    # task 1 meets (1,0): (0,1); then ⟨(0,1), (−1,−1)⟩ = −1: (0,1) − ½·(1,1) = (−½,½); task 2 likewise (−½,−½)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [-0.5, 0.5], [-0.5, -0.5]]))


def test_without_conflict_the_sum_is_the_plain_sum():
    slopes = [0.25, 1.75, 0.0], [0.5, 0.0, 2.5], [5.0, 0.0, 0.75]
    assert combined(PCGrad("sum"), *slopes) == combined(Sum(), *slopes)


@pytest.mark.parametrize("tasks", [2, 3, 5, 8])
def test_projection_by_coefficients_equals_the_sequential_one(tasks):
    random = torch.Generator().manual_seed(tasks)
    for _ in range(20):
        gradients = torch.randn(tasks, 6, generator=random, **DOUBLE) * torch.logspace(-3, 3, tasks, **DOUBLE)[:, None]
        order = torch.rand(tasks, tasks, generator=random).argsort(1)
        expected = torch.stack(one_after_the_other(list(gradients), order.tolist()))
        error = (project_conflicting(gradients, order) - expected).norm(dim=1) / gradients.norm(dim=1)
        assert error.max() < 1e-12


def test_zero_gradients_project_nothing():
    gradients = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    for order in (None, torch.tensor([[0, 1], [0, 1]])):
        assert project_conflicting(gradients, order).equal(gradients)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_refuses_gradients_that_are_no_matrix(shape):
    with pytest.raises(ValueError, match=r"`gradients` must have shape \[K, N\]"):
        project_conflicting(torch.zeros(shape))


def test_refuses_an_order_of_other_tasks():
    with pytest.raises(ValueError, match=r"`order` must have shape \[2, 2\], got \(3, 3\)"):
        project_conflicting(torch.zeros(2, 4), torch.zeros(3, 3, dtype=torch.int64))


def test_the_mean_is_over_the_tasks_that_reach_a_part():
    x, y, unused = (torch.zeros(1, **DOUBLE, requires_grad=True) for _ in range(3))
    losses = [3 * x.sum() + 5 * y.sum(), 3 * x.sum(), x.sum() * 0.0]
    PCGrad().backward(losses, shared=[x, y, unused])
    assert (x.grad.item(), y.grad.item()) == (3.0, 5.0)
    assert unused.grad is None


@pytest.mark.parametrize(("scope", "expected"), [("whole", (-1.0, 6.0)), ("part", (0.0, 6.0))])
def test_scope_decides_whether_parts_conflict_apart(scope, expected):
    x, y = (torch.zeros(1, **DOUBLE, requires_grad=True) for _ in range(2))
    PCGrad("sum", scope).backward([x.sum() + 3 * y.sum(), -2 * x.sum() + 3 * y.sum()], shared=[x, y])
    assert (x.grad.item(), y.grad.item()) == expected  # as wholes they agree, on x alone they do not


@pytest.mark.parametrize(
    ("reduction", "scope", "expected"),
    [
        ("sum", "whole", (9 / 13, 45 / 13)),
        ("mean", "whole", (9 / 26, 45 / 13)),
        ("sum", "part", (0.0, 3.0)),
        ("mean", "part", (0.0, 3.0)),
    ],
)
def test_a_part_that_one_task_alone_reaches_by_hand(reduction, scope, expected):
    # (1,0) and (−2,3): ⟨⟩ = −2; (1,0) + 2/13·(−2,3) = (9,6)/13; (−2,3) + 2·(1,0) = (0,3); one task reaches y
    x, y, unused = (torch.zeros(1, **DOUBLE, requires_grad=True) for _ in range(3))
    PCGrad(reduction, scope).backward([x.sum(), 3 * y.sum() - 2 * x.sum()], shared=[x, y, unused])
    assert (x.grad.item(), y.grad.item()) == pytest.approx(expected, rel=1e-14, abs=1e-15)
    assert unused.grad is None


def test_a_loss_1000_times_as_large_scales_its_own_projected_gradient_alone():
    random = torch.Generator().manual_seed(0)
    gradients, scale = torch.randn(4, 6, generator=random, **DOUBLE), torch.tensor([[1.0], [1.0], [1000.0], [1.0]])
    gradients -= gradients.mean(0)  # their sum is 0, so that every task has a conflict
    order = torch.rand(4, 4, generator=random).argsort(1)
    expected = project_conflicting(gradients, order)
    assert (expected - gradients).norm(dim=1).gt(0.1).all()
    torch.testing.assert_close(project_conflicting(scale * gradients, order), scale * expected, rtol=1e-12, atol=1e-12)
    found = combined(PCGrad("sum"), *(scale * gradients).tolist())
    alone = project_conflicting(gradients, PCGrad().orders(4))
    assert found == pytest.approx((scale * alone).sum(0).tolist(), rel=1e-12)


def test_no_task_is_left_in_conflict_with_the_last_it_met():
    random = torch.Generator().manual_seed(0)
    gradients = torch.randn(5, 8, generator=random, **DOUBLE)
    order = torch.rand(5, 5, generator=random).argsort(1)
    projected = project_conflicting(gradients, order)
    for k in range(5):
        last = [j for j in order[k].tolist() if j != k][-1]
        assert projected[k] @ gradients[last] > -1e-12


def test_huge_and_tiny_gradients_stay_finite():
    for scale in (1e-30, 1e-18, 1e18, 1e30):
        gram = torch.tensor([[1.0, -0.9], [-0.9, 1.0]]) * scale * scale
        assert coefficients_in_order(gram, torch.tensor([[0, 1], [0, 1]])).isfinite().all()


def test_tasks_given_in_another_order_have_the_same_outcomes():
    slopes = torch.randn(3, 2, generator=torch.Generator().manual_seed(4)).tolist()

    def outcomes(*slopes):
        return {tuple(round(g, 9) for g in combined(PCGrad("sum", seed=seed), *slopes)) for seed in range(100)}

    expected = outcomes(*slopes)
    assert len(expected) > 1
    assert outcomes(slopes[2], slopes[0], slopes[1]) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reduction": "none"}, "`reduction` must be 'mean' or 'sum', got 'none'"),
        ({"scope": "tensor"}, "`scope` must be 'whole' or 'part', got 'tensor'"),
    ],
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        PCGrad(**arguments)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_weights_say_what_the_last_step_made_of_each_gradient(reduction):
    """g_1 = G_1 + ½·G_2 and g_2 = G_2 + G_1."""
    x, balancer = torch.zeros(2, requires_grad=True), PCGrad(reduction)
    assert balancer.weights is None
    balancer.backward([x[0], x[1] - x[0]], [x])
    expected = torch.tensor([2.0, 1.5]) / (1 if reduction == "sum" else 2)
    torch.testing.assert_close(balancer.weights, expected)
    torch.testing.assert_close(x.grad, expected[0] * torch.tensor([1.0, 0.0]) + expected[1] * torch.tensor([-1.0, 1.0]))
    balancer.backward([x[0], 0 * x[1]], [x])  # an absent task keeps its weight
    torch.testing.assert_close(balancer.weights, torch.stack([torch.tensor(1.0), expected[1]]))
