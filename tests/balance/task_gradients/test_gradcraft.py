"""GradCraft against hand-worked numbers and its invariants; the twin of the paper runs in the contracts."""

import itertools
import math

import pytest
import torch

from recmtl.balance import GradCraft, PCGrad

DOUBLE = {"dtype": torch.float64}


def combined(balancer, *slopes):
    """The shared gradient when the tasks' gradients are `slopes`."""
    x = torch.zeros(len(slopes[0]), **DOUBLE, requires_grad=True)
    balancer.backward([(x * torch.tensor(slope, **DOUBLE)).sum() for slope in slopes], shared=[x])
    return x.grad


def crafted(slopes, **options):
    """Each task's own g_k, `[K, n]`."""
    G = torch.tensor(slopes, **DOUBLE)
    coefficients = GradCraft(**options)._coefficients((G @ G.T)[None], G.any(1))[0]
    return coefficients @ G


def random_slopes(seed, tasks, width):
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(tasks, width, generator=random, **DOUBLE) * 10.0 ** torch.arange(tasks)[:, None]).tolist()


def test_two_tasks_by_hand():
    # sizes 5·(3/4) + 5/4 and 3.75 + 0.25·3, (0.8, 0.6)·5 untouched, cosine −0.6
    slopes = [[5.0, 0.0], [-1.8, 2.4]]
    found = crafted(slopes, tau=0.75, epsilon=0.5)
    size = 0.75 * 5 + 0.25 * 3
    # (5, 0) + 1.1·5·(−0.6, 0.8), and size·((−0.6, 0.8) + 1.1·(1, 0))
    expected = [[5 - 3.3, 4.4], [0.5 * size, 0.8 * size]]
    torch.testing.assert_close(found, torch.tensor(expected, **DOUBLE), rtol=1e-12, atol=1e-12)


def test_three_tasks_end_without_the_conflict_that_pcgrad_brings_back():
    slopes = [[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -0.5, 0.5]]
    found = crafted(slopes, tau=0.0)
    assert (found[0] @ torch.tensor(slopes, **DOUBLE)[1:].T).tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    # in the plane of the others only their normal is left of (1, 0, 0): (1, 1, 3)/11
    assert found[0].tolist() == pytest.approx([1 / 11, 1 / 11, 3 / 11])


@pytest.mark.parametrize("epsilon", [0.0, 0.05])
@pytest.mark.parametrize("tasks", [2, 3, 8])
def test_every_conflict_ends_at_the_wanted_cosine(tasks, epsilon):
    slopes = random_slopes(tasks + 2, tasks, 4 * tasks)
    G = torch.tensor(slopes, **DOUBLE)
    size = G.norm(dim=1).max()
    sized = G / G.norm(dim=1, keepdim=True) * size
    found = crafted(slopes, epsilon=epsilon)
    conflicts = sized @ sized.T < 0
    assert conflicts.any()
    torch.testing.assert_close(
        (found @ sized.T / size**2)[conflicts],
        torch.full_like(found[0, 0], epsilon).expand(int(conflicts.sum())),
        rtol=1e-10,
        atol=1e-11,
    )


@pytest.mark.parametrize("seed", range(3))
def test_two_tasks_of_their_own_sizes_are_pcgrad(seed):
    slopes = random_slopes(seed, 2, 6)
    torch.testing.assert_close(combined(GradCraft(tau=0.0), *slopes), combined(PCGrad(), *slopes))


@pytest.mark.parametrize(
    "slopes",
    [
        [[1.0, 0.0], [-2.0, 0.0]],
        [[1.0, 0.0], [-1.0, 1.0], [-1.0, 1.0], [-2.0, 2.0]],
        [[0.0, 1.0], [1.0, -1e-6], [-1.0, -1e-6]],
        [[1.0, 0.0], [-0.5, math.sqrt(0.75)], [-0.5, -math.sqrt(0.75)]],
        [[1e-20, 1.0, 0.0], [1.0, -1e-7, 0.0], [-1.0, -1e-7, 1e-9], [0.0, 0.0, 0.0]],
    ],
    ids=["opposed", "equal", "almost opposed", "star", "absent"],
)
def test_singular_systems_give_bounded_gradients(slopes):
    for dtype, epsilon in itertools.product([torch.float32, torch.float64], [0.0, 1e-8, 1.0]):
        G = torch.tensor(slopes, dtype=dtype)
        coefficients = GradCraft(epsilon=epsilon)._coefficients((G @ G.T)[None], G.any(1))[0]
        assert coefficients.isfinite().all()
        sizes = (coefficients.double() @ G.double()).norm(dim=1)
        assert (sizes <= (math.sqrt(2) + 1e-3) * G.norm(dim=1).max()).all()


def test_equal_tasks_remove_a_conflict_once():
    found = crafted([[1.0, 0.0], [-1.0, 1.0], [-1.0, 1.0]], tau=0.0)
    torch.testing.assert_close(found[0], torch.tensor([0.5, 0.5], **DOUBLE))


@pytest.mark.parametrize("option", ["tau", "epsilon"])
@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_refuses_an_option_out_of_range(option, value):
    with pytest.raises(ValueError, match=rf"`{option}` must be in \[0, 1\]"):
        GradCraft(**{option: value})
