"""RotoGradNorm's weights against numbers worked by hand; its twin is that of all rotating methods."""

import pytest
import torch

from recmtl.balance import RotoGradNorm


def received(balancer, *slopes, losses=None):
    """What the view receives of each head, when the heads' inputs have the given gradients and the losses values."""
    views = [torch.zeros(1, len(slopes[0]), requires_grad=True) for _ in slopes]
    pairs = zip(balancer.fork(views), slopes, losses or [1.0] * len(slopes), strict=True)
    balancer.backward([(view * torch.tensor([slope])).sum() + loss for view, slope, loss in pairs], shared=[])
    return [view.grad[0].tolist() for view in views]


def test_first_step_by_hand():
    # the weights are 1; then G = 3, 1, targets 2, 2: Adam's first step is ∓lr
    balancer = RotoGradNorm(lr=0.1)
    assert received(balancer, [3.0, 0.0], [0.0, 1.0]) == [[3.0, 0.0], [0.0, 1.0]]
    weights = 2 * torch.tensor([-0.1, 0.1]).softmax(0)
    torch.testing.assert_close(balancer.weights, weights)
    (first, _), (_, second) = received(balancer, [3.0, 0.0], [0.0, 1.0])
    assert [first, second] == pytest.approx([3 * weights[0].item(), weights[1].item()])


def test_the_task_that_has_learned_least_is_favoured():
    balancer = RotoGradNorm()
    received(balancer, [1.0, 0.0], [0.0, 1.0])
    for _ in range(20):
        received(balancer, [1.0, 0.0], [0.0, 1.0], losses=[0.9, 0.1])
    assert balancer.weights[0] > 1.2


def test_weights_fall_until_the_sizes_match_when_a_loss_is_1000_times_as_large():
    balancer, ratios = RotoGradNorm(lr=0.1), []
    for step in range(600):
        learned = 0.99**step
        received(balancer, [2000.0, 0.0], [0.0, 1.0], losses=[3000 * learned, 0.5 * learned])
        first, second = balancer.weights.tolist()
        ratios.append(first * 2000 / second)
    assert ratios[0] > ratios[50] > ratios[200] > ratios[400]
    assert ratios[-1] == pytest.approx(1.0, rel=0.02)


def test_a_loss_scaled_from_the_start_has_learned_as_much():
    weights = []
    for scale in (1.0, 1000.0):
        balancer = RotoGradNorm(burn_in=2)
        for loss in (1.0, 0.7, 0.2, 0.1):  # the norms stay: L/L(0) is all that could differ
            received(balancer, [3.0, 0.0], [0.0, 1.0], losses=[scale * loss, 0.5])
        weights.append(balancer.weights)
    torch.testing.assert_close(*weights)


def test_parts_that_one_head_alone_reaches_get_its_weight():
    x, y, unused = (torch.zeros(1, 2, requires_grad=True) for _ in range(3))
    balancer, weights = RotoGradNorm(), torch.ones(2)
    for _ in range(2):
        a, b = balancer.fork([x, x + y])
        balancer.backward([1 + 3 * a[0, 0], 1 + 5 * b[0, 1]], shared=[x, y, unused])
        torch.testing.assert_close(x.grad[0], weights * torch.tensor([3.0, 5.0]))
        torch.testing.assert_close(y.grad[0], weights * torch.tensor([0.0, 5.0]))
        x.grad, y.grad, weights = None, None, balancer.weights
    assert weights[0] > weights[1]
    assert unused.grad is None


def test_the_first_losses_are_taken_anew_at_burn_in():
    balancer = RotoGradNorm(burn_in=2)
    found = []
    for loss in (4.0, 3.0, 2.0, 1.0):
        received(balancer, [1.0, 0.0], [0.0, 1.0], losses=[loss, 8.0])
        found.append(balancer.rule.initial.tolist())
    assert found == [[4.0, 8.0], [4.0, 8.0], [2.0, 8.0], [2.0, 8.0]]


def test_an_absent_task_keeps_its_weight_and_is_measured_later():
    balancer = RotoGradNorm(burn_in=1)
    received(balancer, [1.0, 0.0], [0.0, 0.0], losses=[2.0, 0.0])
    assert balancer.rule.initial.tolist() == [2.0, 0.0]
    assert balancer.rule.adam.updates.tolist() == [1, 0]
    received(balancer, [1.0, 0.0], [0.0, 3.0], losses=[5.0, 7.0])
    assert balancer.rule.initial.tolist() == [5.0, 7.0]


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_nonfinite_gradient_leaves_the_task_out(value):
    balancer = RotoGradNorm(burn_in=1)
    received(balancer, [1.0, 0.0], [0.0, 2.0])
    before = balancer.rule.adam.values.clone()
    views = [torch.zeros(1, 2, requires_grad=True) for _ in range(2)]
    a, b = balancer.fork(views)
    b.register_hook(lambda gradient: gradient * value)
    balancer.backward([a.sum() + 3, b.sum() + 5], shared=[])
    assert views[1].grad.eq(0).all()
    assert balancer.skipped.tolist() == [0, 1]
    assert balancer.rule.adam.updates.tolist() == [2, 1]
    assert balancer.rule.initial.tolist() == [3.0, 1.0]
    assert balancer.rule.adam.values[1] == before[1]


def test_needs_to_see_the_losses():
    a, b = RotoGradNorm().fork([torch.ones(1, 2, requires_grad=True)] * 2)
    with pytest.raises(RuntimeError, match=r"call `balancer.backward\(losses, ...\)`"):
        (a + b).sum().backward()


def test_needs_one_loss_per_head():
    balancer = RotoGradNorm()
    a, b = balancer.fork([torch.ones(1, 2, requires_grad=True)] * 2)
    with pytest.raises(ValueError, match="RotoGradNorm needs one loss per head, got 1 losses and 2 heads"):
        balancer.backward([(a + b).sum()], shared=[])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"burn_in": -1}, "`burn_in`"), ({"alpha": -1.0}, "`alpha`"), ({"lr": 0.0}, "`lr` must be positive, got 0.0")],
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        RotoGradNorm(**arguments)


def test_has_no_weights_before_the_heads_are_known():
    assert RotoGradNorm().weights is None
    assert RotoGradNorm(heads=2, features=3).weights.tolist() == [1.0, 1.0]
