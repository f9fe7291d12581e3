"""RotoGrad's sizes against numbers worked by hand; its twin is that of all rotating methods."""

import pytest
import torch

from recmtl.balance import RotoGrad


def received(balancer, *slopes):
    """What the view receives of each head, when the heads' inputs have the given gradients."""
    views = [torch.zeros(1, len(slopes[0]), requires_grad=True) for _ in slopes]
    torch.autograd.backward(balancer.fork(views), [torch.tensor([slope]) for slope in slopes])
    return [view.grad[0].tolist() for view in views]


def test_two_steps_by_hand():
    balancer = RotoGrad()
    # n = 5, 1: c = 1, 1; a = ½, ½; size 3
    assert received(balancer, [3.0, 4.0], [1.0, 0.0]) == [pytest.approx([1.8, 2.4]), pytest.approx([3.0, 0.0])]
    # n = 5, 3: c = 1, 3; a = ¼, ¾; size 5/4 + 9/4 = 3.5
    assert received(balancer, [5.0, 0.0], [0.0, 3.0]) == [pytest.approx([3.5, 0.0]), pytest.approx([0.0, 3.5])]


def test_the_first_sizes_are_taken_anew_at_burn_in():
    balancer = RotoGrad(burn_in=2)
    for size in (1.0, 2.0):
        received(balancer, [size, 0.0], [0.0, 1.0])
        assert balancer.initial_norms.tolist() == [1.0, 1.0]
    for size in (8.0, 9.0):
        received(balancer, [size, 0.0], [0.0, 1.0])
        assert balancer.initial_norms.tolist() == [8.0, 1.0]


def test_burn_in_of_0_keeps_the_first():
    balancer = RotoGrad(burn_in=0)
    for _ in range(3):
        received(balancer, [1.0, 0.0], [0.0, 1.0])
        assert balancer.initial_norms.tolist() == [1.0, 1.0]


def test_a_task_absent_at_first_is_measured_when_it_appears():
    balancer = RotoGrad(burn_in=1)
    assert received(balancer, [2.0, 0.0], [0.0, 0.0]) == [[2.0, 0.0], [0.0, 0.0]]
    assert balancer.updates.tolist() == [1, 0]
    assert balancer.initial_norms.tolist() == [2.0, 0.0]
    received(balancer, [4.0, 0.0], [0.0, 7.0])
    assert balancer.initial_norms.tolist() == [4.0, 7.0]
    received(balancer, [1.0, 0.0], [0.0, 5.0])
    assert balancer.initial_norms.tolist() == [4.0, 5.0]


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_nonfinite_gradient_is_left_out_and_counted(value):
    balancer = RotoGrad(burn_in=1)
    received(balancer, [1.0, 0.0], [0.0, 2.0])
    assert received(balancer, [4.0, 0.0], [value, 2.0]) == [[4.0, 0.0], [0.0, 0.0]]
    assert balancer.skipped.tolist() == [0, 1]
    assert balancer.updates.tolist() == [2, 1]
    assert balancer.initial_norms.tolist() == [4.0, 2.0]


def test_all_tasks_pull_with_one_size():
    balancer = RotoGrad()
    for step in range(5):
        random = torch.Generator().manual_seed(step)
        slopes = (torch.randn(3, 4, generator=random) * torch.tensor([[1e-3], [1.0], [1e3]])).tolist()
        sizes = [torch.tensor(pull).norm().item() for pull in received(balancer, *slopes)]
        assert sizes == pytest.approx([sizes[0]] * 3, rel=1e-5)


def test_a_loss_1000_times_as_large_leaves_the_directions():
    plain, scaled = RotoGrad(), RotoGrad()
    for step in range(5):
        slopes = torch.randn(3, 4, generator=torch.Generator().manual_seed(step))
        a, b = (
            received(plain, *slopes.tolist()),
            received(scaled, *(slopes * torch.tensor([[1.0], [1e3], [1.0]])).tolist()),
        )
        a, b = torch.tensor(a), torch.tensor(b)
        torch.testing.assert_close(torch.cosine_similarity(a, b), torch.ones(3))
        assert torch.cosine_similarity(a.sum(0), b.sum(0), dim=0).item() == pytest.approx(1.0)


def test_parts_that_one_head_alone_reaches_by_hand():
    # n = 3, 5, both as large as at first: each pulls with the size ½·3 + ½·5
    x, y, unused = (torch.zeros(1, 2, requires_grad=True) for _ in range(3))
    balancer = RotoGrad()
    a, b = balancer.fork([x, x + y])
    balancer.backward([3 * a[0, 0], 5 * b[0, 1]], shared=[x, y, unused])
    assert x.grad[0].tolist() == pytest.approx([4.0, 4.0])
    assert y.grad[0].tolist() == pytest.approx([0.0, 4.0])
    assert unused.grad is None


def test_refuses_a_negative_burn_in():
    with pytest.raises(ValueError, match="`burn_in` must be an integer of at least 0, got -1"):
        RotoGrad(burn_in=-1)


def test_weights_are_those_of_the_last_step():
    balancer = RotoGrad(heads=2, features=2)
    assert balancer.weights.tolist() == [1, 1]
    for absent in (False, True):
        z = torch.zeros(1, 2, requires_grad=True)
        a, b = balancer.fork(z)
        balancer.backward([a[0, 0], 0 * b[0, 1] if absent else 3 * b[0, 1]], [z])
        assert balancer.weights.tolist() == pytest.approx([1 if absent else 2, 2 / 3])  # ½·1 + ½·3, over 1 and 3
