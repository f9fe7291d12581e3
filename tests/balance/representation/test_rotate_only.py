"""RotateOnly against numbers worked by hand; its twin is that of all rotating methods."""

import math

import pytest
import torch

from recmtl.balance import RotateOnly


def slopes(balancer, z, first, second):
    """The gradients of the view and of the two rotation matrices, when the heads' inputs have the given gradients.

    At the identity, an entry below the diagonal moves its entry of the matrix and, with the other sign, that across.
    """
    z = torch.tensor(z, requires_grad=True)
    torch.autograd.backward(balancer.fork(z), [torch.tensor(first), torch.tensor(second)])
    lower = balancer.rotations.weight.grad
    return z.grad, (lower - lower.mT) / 2


def test_first_step_by_hand():
    # h = (1,0) and (0,2), one row: h̄ = (½,1), ‖h̄‖ = √5/2; c = √5/4, √5/8
    # A_1 = c_2·h_1ᵀh_2 = √5/8·[[0,2],[0,0]] and A_2 = c_1·h_2ᵀh_1 = √5/4·[[0,0],[2,0]]; ∂/∂R = −(A − Aᵀ)
    received, slope = slopes(RotateOnly(heads=2, features=2), [[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 2.0]])
    assert received.tolist() == [[1.0, 2.0]]
    turn = math.sqrt(5) * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    torch.testing.assert_close(slope, torch.stack([turn / 4, -turn / 2]))


@pytest.mark.parametrize(("batch_scale", "factor"), [(True, 2.0), (False, 1.0)])
def test_two_rows_by_hand(batch_scale, factor):
    # the second rows are equal: h = [(1,0),(1,0)] and [(0,1),(1,0)], both of size √2; h̄ = [(½,½),(1,0)], ‖h̄‖ = √1.5
    # c = √0.75/2 for both; A_1 = c·h_1ᵀh_2 = c·[[1,1],[0,0]], A_2 its transpose
    balancer = RotateOnly(heads=2, features=2, batch_scale=batch_scale)
    first, second = [[1.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]
    _, slope = slopes(balancer, [[0.0, 0.0], [0.0, 0.0]], first, second)
    turn = factor * math.sqrt(0.75) / 2 * torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    torch.testing.assert_close(slope, torch.stack([turn, -turn]))


def test_cooperative_step_by_hand():
    # J the quarter turn: a = √5/4·J and −√5/2·J as above; b = ½·(ĝᵀz − zᵀĝ) is −2·J for ĝ_1 = (1,0) and z = (0,4),
    # and 0 for ĝ_2, parallel to z: opposite directions of equal size cancel, and a alone gets the size ‖a/2‖
    balancer = RotateOnly(heads=2, features=2).coop()
    _, slope = slopes(balancer, [[0.0, 4.0]], [[1.0, 0.0]], [[0.0, 2.0]])
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    expected = torch.stack([0.0 * turn, -math.sqrt(5) / 4 * turn])
    torch.testing.assert_close(slope, expected, rtol=1e-6, atol=1e-6)


def test_the_trunk_receives_the_sum_turned_back():
    balancer = RotateOnly(heads=2, features=2)
    with torch.no_grad():
        balancer.rotations.weight[0, 1, 0] = 2.0  # a quarter turn: (x, y) becomes (−y, x)
    z = torch.tensor([[3.0, 5.0]], requires_grad=True)
    a, b = balancer.fork(z)
    torch.testing.assert_close(a, torch.tensor([[-5.0, 3.0]]))
    assert b.tolist() == [[3.0, 5.0]]
    torch.autograd.backward([a, b], [torch.tensor([[1.0, 10.0]]), torch.tensor([[0.5, 0.0]])])
    torch.testing.assert_close(z.grad, torch.tensor([[10.5, -1.0]]))


def test_a_loss_1000_times_as_large_scales_its_term_of_the_sum():
    for scale in (1.0, 1000.0):
        received, _ = slopes(RotateOnly(heads=2, features=2), [[0.0, 0.0]], [[1.0, 3.0]], [[0.0, 2.0 * scale]])
        assert received.tolist() == [[1.0, 3.0 + 2.0 * scale]]


def test_parts_that_one_head_alone_reaches_by_hand():
    x, y, unused = (torch.zeros(1, 2, requires_grad=True) for _ in range(3))
    balancer = RotateOnly()
    a, b = balancer.fork([x, x + y])
    balancer.backward([3 * a[0, 0], 4 * b[0, 1]], shared=[x, y, unused])
    assert (x.grad.tolist(), y.grad.tolist()) == ([[3.0, 4.0]], [[0.0, 4.0]])
    assert unused.grad is None


def test_weighs_all_alike():
    assert RotateOnly().weights is None
    assert RotateOnly(heads=2, features=2).weights.tolist() == [1, 1]
