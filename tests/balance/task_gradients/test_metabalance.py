"""MetaBalance against hand-worked numbers, and its invariants."""

import pytest
import torch

from recmtl.balance import MetaBalance, SharedTensor


def linear_losses(x, *slopes):
    """Losses whose gradients are `slopes`."""
    return [(x * torch.tensor(slope, dtype=x.dtype)).sum() for slope in slopes]


def combined(balancer, *slopes):
    x = torch.zeros(len(slopes[0]), dtype=torch.float64, requires_grad=True)
    balancer.backward(linear_losses(x, *slopes), shared=[x])
    return x.grad.tolist()


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # norms 5, 10, 2.5: weights 1, 0.7·0.5 + 0.3, 0.7·2 + 0.3
        ("both", [3 + 0.65 * 10, 4 + 1.7 * 2.5]),
        ("reduce", [3 + 0.65 * 10, 4 + 2.5]),
        ("enlarge", [3 + 10, 4 + 1.7 * 2.5]),
    ],
)
def test_first_step_by_hand(strategy, expected):
    assert combined(MetaBalance(strategy=strategy), [3, 4], [10, 0], [0, 2.5]) == pytest.approx(expected, rel=1e-14)


def test_second_step_by_hand():
    balancer = MetaBalance(relax_factor=1.0, beta=0.5)
    combined(balancer, [2.0], [4.0])
    # averages 0.5·(0.5·2) + 0.5·6 = 3.5 and 0.5·(0.5·4) + 0.5·1 = 1.5
    assert combined(balancer, [6.0], [1.0]) == pytest.approx([6 + 3.5 / 1.5], rel=1e-14)


@pytest.mark.parametrize("target", [1, "cvr"])
def test_target_by_position_and_by_name(target):
    x = torch.zeros(1, requires_grad=True)
    ctr, cvr = linear_losses(x, [4.0], [1.0])
    MetaBalance(relax_factor=1.0, target=target).backward({"ctr": ctr, "cvr": cvr}, shared=[x])
    assert x.grad.item() == 2.0


def test_a_named_target_finds_its_place_in_names_given_at_setup():
    balancer = MetaBalance(relax_factor=1.0, target="cvr")
    balancer.setup(objectives=2, heads=2, features=3, parts=1, names=["ctr", "cvr"])
    assert combined(balancer, [4.0], [1.0]) == [2.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relax_factor": 1.3}, r"`relax_factor` must be in \[0, 1\], got 1.3"),
        ({"beta": 1.0}, r"`beta` must be in \[0, 1\), got 1.0"),
        ({"strategy": "half"}, "got 'half'"),
    ],
)
def test_refuses_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        MetaBalance(**arguments)


@pytest.mark.parametrize(
    ("target", "names", "message"),
    [
        (2, None, "one of 2 tasks, got 2"),
        (-1, None, "one of 2 tasks, got -1"),
        ("ctr", None, "have no names"),
        ("ctr", ["a", "b"], r"\['a', 'b'\], got 'ctr'"),
    ],
)
def test_refuses_a_target_that_is_no_task(target, names, message):
    with pytest.raises(ValueError, match=message):
        MetaBalance(target=target).setup(objectives=2, heads=2, features=1, parts=1, names=names)


def test_a_part_that_the_target_does_not_reach_keeps_its_plain_sum():
    x, y = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    MetaBalance().backward([2 * x.sum(), 8 * x.sum() + 8 * y.sum()], shared=[x, y])
    assert y.grad.item() == 8.0  # not 0.3 of it
    assert x.grad.item() == pytest.approx(2 + 0.7 * 2 + 0.3 * 8)


def test_parts_that_the_target_or_an_auxiliary_reaches_alone():
    x, y, z = (torch.zeros(1, requires_grad=True) for _ in range(3))
    losses = [2 * x.sum() + 5 * y.sum(), 8 * x.sum() + 8 * z.sum(), 4 * z.sum()]
    MetaBalance(relax_factor=0.5).backward(losses, shared=[x, y, z])
    # x: 2 + (0.5·2/8 + 0.5)·8; y is the target's alone; z, which it does not reach, is the plain sum
    assert (x.grad.item(), y.grad.item(), z.grad.item()) == (7.0, 5.0, 12.0)


def scaled(position, steps=4):
    """The shared gradients of some steps, one task's loss 1000 times as large."""
    random, balancer, found = torch.Generator().manual_seed(0), MetaBalance(relax_factor=1.0), []
    for _ in range(steps):
        slopes = torch.randn(3, 4, generator=random, dtype=torch.float64)
        if position is not None:
            slopes[position] *= 1000
        found.append(combined(balancer, *slopes.tolist()))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(("position", "factor"), [(0, 1000.0), (1, 1.0), (2, 1.0)])
def test_an_auxiliary_loss_1000_times_as_large_changes_nothing_the_target_scales_all(position, factor):
    torch.testing.assert_close(scaled(position), factor * scaled(None), rtol=1e-12, atol=1e-14)


def test_a_missing_gradient_does_not_end_the_walk_over_the_leaves():
    x, unused, y = (torch.zeros(1, requires_grad=True) for _ in range(3))
    MetaBalance(relax_factor=1.0).backward([x.sum() + y.sum(), 4 * y.sum()], shared=[x, unused, y])
    assert (x.grad.item(), y.grad.item()) == (1.0, 2.0)
    assert unused.grad is None


def test_a_task_first_present_late_starts_with_the_weight_of_its_norm():
    balancer = MetaBalance(relax_factor=1.0)
    for _ in range(50):
        combined(balancer, [1.0], [0.0])
    assert combined(balancer, [1.0], [2.0]) == pytest.approx([2.0])  # without the correction 1 + 10


def test_an_absent_target_leaves_the_others_scaled_by_its_average():
    balancer = MetaBalance(relax_factor=1.0)
    combined(balancer, [1.0], [4.0])
    assert combined(balancer, [0.0], [4.0]) == pytest.approx([1.0])


def test_weights_are_the_means_over_the_parts_reached():
    x, y = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    balancer = MetaBalance(relax_factor=1.0)
    assert balancer.weights is None
    balancer.backward([x.sum() + y.sum(), 2 * x.sum(), 4 * x.sum() + 8 * y.sum()], shared=[x, y])
    torch.testing.assert_close(balancer.part_weights(), torch.tensor([[1.0, 1.0], [0.5, 1.0], [0.25, 0.125]]))
    torch.testing.assert_close(balancer.weights, torch.tensor([1.0, 0.5, 0.1875]))


def test_refuses_another_number_of_parts():
    balancer = MetaBalance()
    combined(balancer, [1.0], [1.0])
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(ValueError, match="made for 2 objectives, 1 parts; got 2 objectives, 2 parts"):
        balancer.backward([x.sum(), x.sum()], shared=[SharedTensor(x, parts=2)])
