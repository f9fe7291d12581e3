"""Aligned-MTL against hand-worked numbers and its invariants; its twin is in `test_gram`."""

import pytest
import torch
from test_gram import combined, random_slopes

from recmtl.balance import AlignedMTL
from recmtl.balance.eigen import eigen, jacobi

DOUBLE = {"dtype": torch.float64}


def test_orthogonal_gradients_by_hand():
    slopes = torch.diag(torch.tensor([1.0, 2.0, 8.0], **DOUBLE))
    assert combined(AlignedMTL(), slopes).tolist() == pytest.approx([1 / 3] * 3, rel=1e-9)
    assert combined(AlignedMTL([1.0, 1.0, 2.0]), slopes).tolist() == pytest.approx([0.25, 0.25, 0.5], rel=1e-9)


def test_two_tasks_at_an_angle_by_hand():
    # (1, 0) and (0.6, 0.8): the sum has the eigenvalue 1.6, the difference 0.4 = λ. w = ½·√(0.4/1.6) for both.
    balancer = AlignedMTL()
    combined(balancer, torch.tensor([[1.0, 0.0], [0.6, 0.8]], **DOUBLE))
    assert balancer.weights.tolist() == pytest.approx([0.25, 0.25], rel=1e-9)


def test_aligned_gradients_are_orthogonal_and_of_one_size():
    slopes = random_slopes(5)
    rows = []
    for k in range(5):  # the k-th aligned gradient is the step if it has all shares
        rows.append(combined(AlignedMTL([float(k == j) for j in range(5)]), slopes))
    gram = torch.stack(rows) @ torch.stack(rows).T
    least = torch.linalg.svdvals(slopes)[-1].square()
    torch.testing.assert_close(gram, least * torch.eye(5, **DOUBLE), rtol=1e-9, atol=1e-9)


def test_equal_tasks_leave_out_the_eigenvalue_0():
    slopes = torch.tensor([[3.0, 4.0], [3.0, 4.0]], **DOUBLE)
    assert combined(AlignedMTL(), slopes).tolist() == pytest.approx([3.0, 4.0], rel=1e-9)


@pytest.mark.parametrize("K", [1, 2, 5, 8, 32])
def test_jacobi_rotations_find_what_torch_finds(K):
    scaled = random_slopes(K, 40) * torch.logspace(0, 6, K, **DOUBLE)[:, None]
    for G in (random_slopes(K, 40), random_slopes(K, 1), random_slopes(K, 2), torch.ones(K, 3, **DOUBLE), scaled):
        gram = G @ G.T
        gram = gram / gram.abs().amax()
        values, vectors = jacobi(gram)
        torch.testing.assert_close(vectors * values @ vectors.T, gram, rtol=0.0, atol=1e-12)
        torch.testing.assert_close(vectors.T @ vectors, torch.eye(K, **DOUBLE), rtol=0.0, atol=1e-12)
        torch.testing.assert_close(values.sort().values, eigen(gram)[0], rtol=0.0, atol=1e-12)


def test_a_device_gives_the_same_step(monkeypatch):
    slopes = random_slopes(5)
    expected = combined(AlignedMTL(), slopes)
    monkeypatch.setattr("recmtl.balance.eigen.on_host", lambda tensor: False)
    torch.testing.assert_close(combined(AlignedMTL(), slopes), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("ratio", [100.0, 499.0, 501.0, 1e5])
def test_a_small_gradient_counts_in_float32(ratio):
    slopes = torch.tensor([[1.0, 0.0], [0.0, ratio]])
    assert combined(AlignedMTL(), slopes).tolist() == pytest.approx([0.5, 0.5], rel=1e-5)


def test_a_small_gradient_counts_beside_equal_large_ones():
    slopes = torch.tensor([[300.0, 400.0, 0.0], [300.0, 400.0, 0.0], [0.0, 0.0, 1.0]])
    balancer = AlignedMTL()
    found = combined(balancer, slopes)
    assert found.tolist() == pytest.approx([0.6 * 2**0.5 / 3, 0.8 * 2**0.5 / 3, 1 / 3], rel=1e-5)
