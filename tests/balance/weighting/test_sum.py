"""Sum is the plain backward pass."""

import pytest
import torch

from recmtl.balance import Sum


def test_adds_up_shared_and_private_gradients():
    shared = torch.tensor([1.0, 2.0], requires_grad=True)
    a, b = torch.tensor(3.0, requires_grad=True), torch.tensor(4.0, requires_grad=True)
    Sum().backward([a * shared[0], b * shared.prod()], shared=[shared])
    assert shared.grad.tolist() == [3 + 4 * 2, 4 * 1]
    assert (a.grad.item(), b.grad.item()) == (1.0, 2.0)


def test_parts_that_some_tasks_reach_and_a_loss_1000_times_as_large():
    x, y, unused = (torch.zeros(1, requires_grad=True) for _ in range(3))
    Sum().backward([2 * x.sum(), 1000 * (3 * x.sum() + 5 * y.sum())], shared=[x, y, unused])
    assert (x.grad.item(), y.grad.item()) == (2 + 3000, 5000)
    assert unused.grad is None


def test_needs_no_setup_and_has_no_weights():
    balancer = Sum()
    assert balancer.weights is None
    assert balancer.skipped is None


def test_leaves_out_an_infinite_loss_with_a_finite_gradient():
    x, y = torch.tensor(1.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    balancer = Sum()
    balancer.backward([x + torch.inf, 2 * y], shared=[x])
    assert (x.grad.item(), y.grad.item()) == (0.0, 2.0)
    assert balancer.skipped.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ([], "one loss per objective"),
        ([torch.zeros(3)], r"loss 0 must be a scalar, got shape \(3,\)"),
        ({"ctr": torch.zeros(()), "cvr": torch.zeros(1)}, r"loss 'cvr' must be a scalar, got shape \(1,\)"),
    ],
)
def test_refuses_losses_that_are_no_scalars(losses, message):
    with pytest.raises(ValueError, match=message):
        Sum().backward(losses, shared=[])


def test_refuses_another_number_of_losses():
    x = torch.tensor(1.0, requires_grad=True)
    balancer = Sum()
    balancer.backward([x, x], shared=[x])
    with pytest.raises(ValueError, match="made for 2 objectives; got 3 objectives"):
        balancer.backward([x, x, x], shared=[x])


def test_names_bring_a_mapping_into_order_and_are_checked():
    x = torch.tensor(1.0, requires_grad=True)
    balancer = Sum()
    balancer.setup(objectives=2, heads=2, features=4, parts=1, names=["ctr", "cvr"])
    balancer.backward({"cvr": x * torch.nan, "ctr": x}, shared=[x])
    assert balancer.skipped.tolist() == [0, 1]
    with pytest.raises(
        ValueError, match=r"must be named \['ctr', 'cvr'\], got \['ctr', 'ctcvr'\]|got \['ctcvr', 'ctr'\]"
    ):
        balancer.backward({"ctr": x, "ctcvr": x}, shared=[x])


@pytest.mark.parametrize("names", [["ctr"], ["ctr", "ctr"]])
def test_refuses_names_that_do_not_name_each_loss(names):
    with pytest.raises(ValueError, match="`names` must be 2 different names"):
        Sum().setup(objectives=2, heads=2, features=4, parts=1, names=names)
