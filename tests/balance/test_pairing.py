"""Losses that come in another order than the heads."""

import pytest
import torch
from torch import nn
from twins import BALANCERS

from recmtl.balance import RepresentationBalancer, RotationBalancer, RotoGrad, RotoGradNorm
from recmtl.balance.pairing import heads_reached, loss_of_head, paired_by_name

NAMES, ORDER = ("a", "b", "c"), (1, 2, 0)
METHODS = [c for c in BALANCERS if issubclass(c, RepresentationBalancer)]


def step(balancer, order, named, seed=0, change=lambda losses: losses):
    """One step on three tasks of different size and progress; returns the trunk's gradient."""
    torch.manual_seed(0)
    bottom, towers = nn.Linear(4, 3).double(), [nn.Linear(3, 1).double() for _ in NAMES]
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(8, 4, generator=random, dtype=torch.float64)
    y = torch.randn(3, 8, generator=random, dtype=torch.float64)
    views = balancer.fork([bottom(x)] * 3)
    losses = change(
        [
            10.0**k * 0.9 ** (seed * k) * (tower(view)[:, 0] - target).square().mean()
            for k, (tower, view, target) in enumerate(zip(towers, views, y, strict=True))
        ]
    )
    losses = {NAMES[k]: losses[k] for k in order} if named else [losses[k] for k in order]
    balancer.backward(losses, list(bottom.parameters()))
    return bottom.weight.grad


def made(method):
    return (method(heads=3, features=3) if issubclass(method, RotationBalancer) else method()).double()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_losses_changes_nothing(method, named):
    balancer, expected = made(method), made(method)
    for seed in range(30):
        found = step(balancer, ORDER, named, seed)
        torch.testing.assert_close(found, step(expected, range(3), named, seed), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(balancer.weights, expected.weights, rtol=1e-12, atol=0.0)
    assert balancer.labels == (NAMES if named else None)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_a_nonfinite_loss_is_counted_for_its_head(method, named):
    balancer = made(method)
    step(balancer, ORDER, named, change=lambda losses: [losses[0], losses[1] + torch.inf, losses[2]])
    assert balancer.skipped.tolist() == [0, 1, 0]


def test_an_absent_task_takes_the_head_that_is_left():
    balancer, expected = made(RotoGradNorm), made(RotoGradNorm)
    for seed in range(4):

        def change(losses, seed=seed):
            return [losses[0], losses[1], losses[2].detach() * 0.0] if seed < 2 else losses

        found = step(balancer, ORDER, True, seed, change)
        torch.testing.assert_close(found, step(expected, range(3), True, seed, change), rtol=1e-12, atol=0.0)
    assert balancer.rule.adam.updates.tolist() == [4, 4, 2]


def test_the_order_is_part_of_the_state():
    balancer = made(RotoGradNorm)
    step(balancer, ORDER, True)
    fresh = RotoGradNorm()
    fresh.load_state_dict(balancer.state_dict())
    assert (fresh.names, fresh.labels) == (("b", "c", "a"), NAMES)
    assert step(fresh, ORDER, True, 1).equal(step(balancer, ORDER, True, 1))


def test_a_loss_of_two_heads_belongs_to_the_one_that_no_other_loss_reaches():
    balancer = RotoGradNorm(heads=2, features=2)
    ctr, cvr = balancer.fork(torch.ones(4, 2, requires_grad=True))
    p_ctr, p_cvr = (view.sum(1).sigmoid() for view in (ctr, cvr))
    balancer.backward({"ctcvr": (1 - p_ctr * p_cvr).mean(), "ctr": p_ctr.mean()}, [])
    assert balancer.labels == ("ctr", "ctcvr")
    torch.testing.assert_close(balancer.rule.initial, balancer.losses.flip(0))


def test_losses_that_the_graph_does_not_tell_apart():
    def losses(balancer):
        a, b = balancer.fork(torch.ones(4, 2, requires_grad=True))
        return (a + b).square().mean(), (a - 2 * b).square().mean()

    balancer = RotoGradNorm(heads=2, features=2)
    first, second = losses(balancer)
    with pytest.raises(ValueError, match="cannot tell which loss belongs to which head"):
        balancer.backward({"b": first, "a": second}, [])
    balancer.backward(losses(balancer), [])  # a list is in the heads' order
    assert balancer.rule.initial.tolist() == balancer.losses.tolist()
    named = RotoGradNorm(heads=2, features=2)
    named.setup(objectives=2, heads=2, features=2, parts=0, names=["b", "a"], head_names=["a", "b"])
    first, second = losses(named)
    named.backward({"b": first, "a": second}, [])
    assert named.rule.initial.tolist() == named.losses.flip(0).tolist()
    other = RotoGrad(heads=2, features=2)  # compares no losses
    first, second = losses(other)
    other.backward({"b": first, "a": second}, [])


def test_heads_are_found_behind_any_operation():
    balancer = RotoGrad(heads=3, features=2)
    a, _, c = balancer.fork(torch.ones(4, 2, requires_grad=True))
    assert heads_reached(torch.stack([a.sum(), (c * a.detach()).mean()]).unbind()[1], balancer) == {0, 2}  # one node
    assert heads_reached((c[0] * a.detach()).mean().exp(), balancer) == {2}
    assert heads_reached(a.detach().sum(), balancer) == set()
    assert heads_reached(a.sum(), RotoGrad(heads=3, features=2)) == set()


@pytest.mark.parametrize(
    ("reached", "expected"),
    [
        ([{0}, {1}], [0, 1]),
        ([{1}, {0}], [1, 0]),
        ([{0, 1, 2}, {2}, {1, 2}], [0, 2, 1]),
        ([set(), {0}, set()], [1, 0, 2]),
        ([{0, 1}, {0, 1}, {2}], None),
        ([{0}, {0}], None),
    ],
)
def test_only_one_assignment_is_taken(reached, expected):
    assert loss_of_head(reached) == expected


def test_names_say_it_first():
    assert paired_by_name(("b", "a"), ("a", "b")) == [1, 0]
    assert paired_by_name(("ctr", "ctcvr"), ("ctr", "cvr")) == [0, 1]
