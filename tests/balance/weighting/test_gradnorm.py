"""GradNorm against hand-worked numbers, and its invariants."""

import pytest
import torch

from recmtl.balance import GradNorm, GradNormRule, SharedTensor

TOLERANCE = {"rtol": 1e-10, "atol": 1e-14}


def pairs(*losses_and_norms):
    """A weight W `[1, 2K]` and losses of given values whose gradients on W have given norms."""
    W = torch.zeros(1, len(losses_and_norms), dtype=torch.float64, requires_grad=True)
    return W, [loss + norm * W[0, k] for k, (loss, norm) in enumerate(losses_and_norms)]


def test_first_step_by_hand():
    # G = 3, 1; targets 2, 2; s = +1, −1; pull 3, −1; mean of w·pull 1; slope 2, −2: Adam's first step is ±lr
    W, losses = pairs((0.7, 3.0), (0.2, 1.0))
    balancer = GradNorm(lr=0.1)
    balancer.backward(losses, shared=[W])
    assert W.grad.tolist() == [[3.0, 1.0]]
    expected = 2 * torch.tensor([-0.1, 0.1], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(balancer.weights, expected, rtol=1e-8, atol=0.0)
    assert balancer.rule.initial.tolist() == [0.7, 0.2]


def test_the_second_step_uses_the_moved_weights():
    balancer = GradNorm()
    W, losses = pairs((1.0, 3.0), (1.0, 1.0))
    balancer.backward(losses, shared=[W])
    weights = balancer.weights
    W, losses = pairs((1.0, 3.0), (1.0, 1.0))
    balancer.backward(losses, shared=[W])
    torch.testing.assert_close(W.grad[0], weights * torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert not balancer.weights.equal(weights)


def test_slope_of_three_tasks_by_hand():
    rule = GradNormRule(3, alpha=1.0, lr=0.025).double()
    rule.initial.copy_(torch.tensor([1.0, 2.0, 4.0]))
    # L̃ = 1, 1/2, 1/4, mean 7/12; r = 12/7, 6/7, 3/7; norms 2, 4, 6, mean 4; T = 48/7, 24/7, 12/7; s = −, +, +
    rule.step(torch.ones(3, dtype=torch.float64), torch.tensor([2.0, 4.0, 6.0], dtype=torch.float64))
    pull = torch.tensor([-2.0, 4.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(rule.adam.mean, 0.1 * (pull - 8 / 3), **TOLERANCE)


def test_the_task_that_has_learned_least_is_favoured():
    rule = GradNormRule(2, alpha=1.5, lr=0.025)
    rule.step(torch.tensor([1.0, 1.0]), norms=torch.tensor([1.0, 1.0]))
    for _ in range(20):
        rule.step(torch.tensor([0.9, 0.1]), norms=torch.tensor([1.0, 1.0]))
    assert rule.weights[0] > 1.2


@pytest.mark.parametrize("alpha", [0.5, 3.0])
def test_alpha_decides_between_norm_and_progress(alpha):
    """The first task has the larger gradient and has learned less: only a strong α favours it."""
    rule = GradNormRule(2, alpha=alpha, lr=0.025)
    rule.initial.fill_(1.0)
    rule.step(torch.tensor([0.9, 0.5]), norms=torch.tensor([2.0, 1.0]))
    assert bool(rule.weights[0] > 1) is (alpha == 3.0)


def test_weights_stay_positive_with_losses_a_thousand_times_apart():
    balancer = GradNorm()
    for _ in range(500):
        W, losses = pairs((1000.0, 1000.0), (1.0, 1.0))
        balancer.backward(losses, shared=[W])
    weights = balancer.weights
    assert weights.min() > 0
    assert weights.sum().item() == pytest.approx(2.0)
    assert weights[1] > 1.9


def test_weights_fall_until_the_sizes_match_when_a_loss_is_1000_times_as_large():
    balancer, ratios = GradNorm(lr=0.1), []
    for step in range(600):
        learned = 0.99**step
        W, losses = pairs((3000.0 * learned, 2000.0), (0.5 * learned, 1.0))
        balancer.backward(losses, shared=[W])
        first, second = balancer.weights.tolist()
        ratios.append(first * 2000 / second)
    assert ratios[0] > ratios[50] > ratios[200] > ratios[400]
    assert ratios[-1] == pytest.approx(1.0, rel=0.02)


def test_a_loss_scaled_from_the_start_has_learned_as_much():
    weights = []
    for scale in (1.0, 1000.0):
        balancer = GradNorm()
        for loss in (1.0, 0.7, 0.2, 0.1):
            W, losses = pairs((scale * loss, 3.0), (0.5, 1.0))  # the norms stay: L/L(0) is all that could differ
            balancer.backward(losses, shared=[W])
        weights.append(balancer.weights)
    torch.testing.assert_close(*weights, rtol=1e-12, atol=0.0)


def test_parts_that_some_tasks_reach_get_the_weights_of_those():
    W, losses = pairs((1.0, 3.0), (1.0, 1.0))
    y, unused = torch.zeros(1, dtype=torch.float64, requires_grad=True), torch.zeros(1, requires_grad=True)
    balancer = GradNorm()
    balancer.backward([losses[0], losses[1] + 5 * y.sum()], shared=[y, W, unused], last=[W])
    assert y.grad.item() == 5.0
    weight = balancer.weights[1]
    W, losses = pairs((1.0, 3.0), (1.0, 1.0))
    y.grad = None
    balancer.backward([losses[0], losses[1] + 5 * y.sum()], shared=[y, W, unused], last=[W])
    torch.testing.assert_close(y.grad[0], 5 * weight)
    assert unused.grad is None


def test_a_task_that_does_not_reach_the_measured_weight_keeps_its_weight_of_the_start():
    W, losses = pairs((1.0, 3.0), (1.0, 1.0))
    y = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    balancer = GradNorm()
    balancer.backward([*losses, 1 + 7 * y.sum()], shared=[y, W], last=[W])
    assert y.grad.item() == 7.0
    assert balancer.rule.adam.updates.tolist() == [1, 1, 0]
    assert balancer.rule.adam.values[2] == 0.0


def test_an_absent_task_keeps_its_logit_and_the_first_loss_it_had():
    balancer = GradNorm()
    W, (loss, _) = pairs((1.0, 3.0), (1.0, 1.0))
    balancer.backward([loss, W.sum() * 0.0], shared=[W])
    assert balancer.rule.initial.tolist() == [1.0, 0.0]
    W, losses = pairs((0.5, 3.0), (8.0, 1.0))
    balancer.backward(losses, shared=[W])
    assert balancer.rule.initial.tolist() == [1.0, 8.0]
    before = balancer.rule.adam.values.clone()
    W, (loss, _) = pairs((0.5, 3.0), (8.0, 1.0))
    balancer.backward([loss, torch.zeros((), dtype=torch.float64)], shared=[W])
    assert balancer.rule.adam.values[1] == before[1]
    assert balancer.rule.adam.updates.tolist() == [3, 1]


def test_a_loss_that_is_not_positive_is_trained_on_but_not_compared():
    balancer = GradNorm()
    W, losses = pairs((-1.0, 3.0), (1.0, 1.0))
    balancer.backward(losses, shared=[W])
    assert W.grad.tolist() == [[3.0, 1.0]]
    assert balancer.rule.adam.updates.tolist() == [0, 1]
    assert balancer.rule.initial.tolist() == [0.0, 1.0]


def test_a_nonfinite_norm_leaves_the_task_out():
    balancer = GradNorm()
    W, (a, b) = pairs((1.0, 3.0), (1.0, 1.0))
    hook = (W[0, 0] * 1.0).clamp(min=-1)
    hook.register_hook(lambda gradient: gradient * torch.nan)
    balancer.backward([a, b + hook], shared=[W])
    assert balancer.skipped.tolist() == [0, 1]
    assert balancer.rule.adam.updates.tolist() == [1, 0]
    torch.testing.assert_close(W.grad, torch.tensor([[3.0, 0.0]], dtype=torch.float64))  # the first task's alone


def test_a_loss_that_is_a_leaf_gets_its_gradient():
    W = torch.ones(2, 2, requires_grad=True)
    leaf = torch.tensor(2.0, requires_grad=True)
    GradNorm().backward([W.sum(), leaf], shared=[W])
    torch.testing.assert_close(leaf.grad, torch.tensor(1.0))
    torch.testing.assert_close(W.grad, torch.ones(2, 2))


def test_the_measured_gradient_is_added_in_place():
    W = torch.ones(2, 2, requires_grad=True)
    W.grad = held = torch.full((2, 2), 10.0)
    GradNorm().backward([W.sum(), 2 * W.sum()], shared=[W])
    assert W.grad is held
    torch.testing.assert_close(held, torch.full((2, 2), 13.0))


def test_hooks_on_the_measured_weight_see_the_balanced_gradient():
    W, seen = torch.ones(2, 2, requires_grad=True), []
    W.register_post_accumulate_grad_hook(lambda tensor: seen.append(tensor.grad.clone()))
    GradNorm().backward([W.sum(), 2 * W.sum()], shared=[W])
    torch.testing.assert_close(seen, [torch.full((2, 2), 3.0)])


def test_measures_on_last_or_the_last_matrix_that_is_trained():
    tensors = [torch.ones(2, 2, requires_grad=True), torch.ones(3, 2, requires_grad=True)]
    frozen, bias = torch.ones(2, 2), torch.ones(3, requires_grad=True)

    def moved(**arguments):
        balancer = GradNorm()
        first, second = tensors
        losses = [10 * first.sum() + second.sum() + bias.sum(), first.sum() + 10 * second.sum()]
        balancer.backward(
            losses, shared=[SharedTensor(first), SharedTensor(second, parts=3), frozen, bias], **arguments
        )
        return (balancer.weights - 1).sign().tolist()

    assert moved() == [1.0, -1.0]
    assert moved(last=[tensors[0]]) == [-1.0, 1.0]
    assert moved(last=[tensors[0], frozen]) == [-1.0, 1.0]


def test_last_may_be_several_tensors_measured_together():
    x, y = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    balancer = GradNorm()
    balancer.backward([1 + 3 * x[0] + 4 * y[0], 1 + 5 * x[1]], shared=[x, y], last=[x, y])
    assert balancer.weights.tolist() == [1.0, 1.0]  # both norms are 5


@pytest.mark.parametrize("shared", [[torch.zeros(2, 2)], []])
def test_says_so_when_there_is_nothing_to_measure_on(shared):
    loss = torch.ones((), requires_grad=True)
    with pytest.raises(ValueError, match="measures gradients on a shared weight"):
        GradNorm().backward([loss, loss], shared=shared)


@pytest.mark.parametrize(("arguments", "message"), [({"alpha": -1.0}, "`alpha`"), ({"lr": 0.0}, "`lr`")])
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradNorm(**arguments)
