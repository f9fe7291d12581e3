"""The solvers of small convex problems against their conditions of optimality and SciPy, on hard matrices."""

import pytest
import torch
from scipy.optimize import nnls

from recmtl.balance import cone_solver, solver
from recmtl.balance.cone_solver import largest_least_gain
from recmtl.balance.solver import fair_shares, nonnegative_quadratic

COUNTS = {2: 400, 3: 400, 5: 300, 8: 100, 16: 150, 32: 80}  # problems of each kind, by K: 10,010 in all
KINDS = ["random", "rank 1", "rank 2", "equal", "opposed", "split", "scales"]
RIDGE = 1e-13


def problems(K, kind, count):
    """Gradients `[count, K, n]`, and their cosines and norms."""
    random = torch.Generator().manual_seed(100 * K + KINDS.index(kind))

    def normal(*shape):
        return torch.randn(shape, generator=random, dtype=torch.float64)

    n = {"rank 1": 1, "rank 2": 2}.get(kind, 40)
    G = normal(count, K, n)
    if kind in ("equal", "opposed"):
        G[:, 1] = G[:, 0] if kind == "equal" else -G[:, 0]
    elif kind == "split":
        G = 0.3 * G + torch.where(torch.arange(K) < K // 2, 1.0, -1.0)[:, None]
    elif kind == "scales":
        G = G * 10 ** (6 * torch.rand(count, K, 1, generator=random, dtype=torch.float64))
    norms = G.norm(dim=2)
    cosine = G @ G.mT / norms[:, None] / norms[:, :, None] / (1 + RIDGE)
    return G, torch.diagonal_scatter(cosine, torch.ones_like(norms), dim1=1, dim2=2), norms


def every_problem(counts=COUNTS):
    return [(K, kind, *problems(K, kind, count)) for K, count in counts.items() for kind in KINDS]


def linear_terms(G, norms):
    """Those of `MGDA` and of `DualProj`."""
    return -1 / norms, (G @ G.mean(1).unsqueeze(-1)).squeeze(-1) / norms


@pytest.mark.parametrize("counts", [COUNTS, dict.fromkeys((3, 5, 8), 50)], ids=["as is", "by the interior point alone"])
def test_the_conditions_of_the_least_quadratic_hold_on_10_000_matrices(counts, monkeypatch):
    if counts is not COUNTS:
        monkeypatch.setattr(solver, "ENUMERATED", 2)
    worst = torch.zeros(2, dtype=torch.float64)
    for _, _, G, cosine, norms in every_problem(counts):
        for c in linear_terms(G, norms):
            scale = c.abs().amax(1, keepdim=True).clamp(min=1e-300)
            x = nonnegative_quadratic(cosine, c)
            assert x.ge(0).all()
            x = x / scale
            slope = (cosine @ x.unsqueeze(-1)).squeeze(-1) + c / scale
            size = 1 + x.amax(1, keepdim=True)
            worst = torch.stack([(-slope / size).max(), (x * slope).abs().div(size**2).max()]).maximum(worst)
    assert worst.max() < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_the_shortest_convex_combination_is_that_of_scipy(kind):
    for K in COUNTS:
        (G,), cosine, norms = problems(K, kind, 1)
        u = nonnegative_quadratic(cosine, -1 / norms)[0] / norms[0]
        size = norms.max()
        w, _ = nnls(torch.cat([G.T / size, torch.ones(1, K, dtype=torch.float64)]).numpy(), [0.0] * G.shape[1] + [1.0])
        length = (torch.from_numpy(w / w.sum()) @ G).norm()
        assert ((u / u.sum()) @ G).norm() == pytest.approx(length.item(), rel=1e-9, abs=1e-5)


def test_the_equations_of_fairness_hold_on_10_000_matrices():
    """Loosest where Qx = 0 has a solution x ≥ 0, so that only the reduced products of different tasks allow one."""
    worst = {1.0: {}, 0.5: {}, 2.0: {}}
    for power, errors in worst.items():
        for K, kind, _, cosine, norms in (
            every_problem() if power == 1 else [p for p in every_problem() if p[0] in (2, 8)]
        ):
            target = (norms / norms.amax(1, keepdim=True)) ** (power - 1)
            x = fair_shares(cosine, target, power)
            product = torch.lerp(cosine, torch.eye(K, dtype=torch.float64), 1e-8) @ x.unsqueeze(-1)
            error = (x**power * product.squeeze(-1) / target - 1).abs()
            errors[kind] = max(errors.get(kind, 0.0), error[x > 1e-13 * x.amax(1, keepdim=True)].max().item())
    assert all(errors[kind] < 1e-9 for errors in worst.values() for kind in ("random", "equal", "split", "scales"))
    assert max(max(errors.values()) for errors in worst.values()) < 1e-4


def in_a_ball(c, cosine, norms):
    """The problem of `CAGrad`."""
    cosine = torch.lerp(cosine, torch.eye(cosine.shape[-1], dtype=torch.float64), 1e-8)
    mean = norms / norms.shape[-1]
    gains = (cosine @ mean.unsqueeze(-1)).squeeze(-1)
    radius = c * (mean * gains).sum(1, keepdim=True).sqrt()
    return cosine, gains / radius.clamp(min=1e-12), norms.amin(1, keepdim=True) / norms


@pytest.mark.parametrize(("c", "limit"), [(0.1, 1e-7), (0.4, 1e-5), (0.9, 1e-3)])
def test_the_conditions_of_the_largest_least_gain_hold_on_10_000_matrices(c, limit):
    for K, kind, _, cosine, norms in every_problem(COUNTS if c == 0.4 else dict.fromkeys(COUNTS, 20)):
        problem = Q, b, a = in_a_ball(c, cosine, norms)
        v = largest_least_gain(*problem)
        gain = b + (Q @ v.unsqueeze(-1)).squeeze(-1)
        least = (v * gain).sum(1, keepdim=True) / (v * a).sum(1, keepdim=True)
        slack, size = gain - least * a, 1 + b.abs().amax(1, keepdim=True)
        assert v.ge(0).all()
        assert ((v * (gain - b)).sum(1).sqrt() - 1).abs().max() < limit, (K, kind)
        assert (-slack / size).max() < limit, (K, kind)
        assert ((v * slack).abs() / size / (1 + v.amax(1, keepdim=True))).max() < limit, (K, kind)


@pytest.mark.parametrize("K", [2, 9, 32])
def test_a_device_takes_every_iteration_to_the_same_numbers(K, monkeypatch):
    found = [
        [nonnegative_quadratic(Q, c) for c in linear_terms(G, n)] for G, Q, n in (problems(K, k, 5) for k in KINDS)
    ]
    monkeypatch.setattr(solver, "on_host", lambda tensor: False)
    for (G, cosine, norms), expected in zip((problems(K, k, 5) for k in KINDS), found, strict=True):
        for c, x in zip(linear_terms(G, norms), expected, strict=True):
            torch.testing.assert_close(nonnegative_quadratic(cosine, c), x, rtol=1e-12, atol=0.0, equal_nan=False)


def test_a_matrix_that_is_not_positive_definite_gives_finite_numbers():
    """As from rounded inner products of equal gradients."""
    cosine = torch.full((4, 4), 1 + 1e-5, dtype=torch.float64).fill_diagonal_(1.0)
    x = nonnegative_quadratic(cosine, torch.tensor([-1.0, -2.0, -1.0, 0.5], dtype=torch.float64))
    assert x.isfinite().all()
    assert x.tolist() == pytest.approx([0.0, 2.0, 0.0, 0.0], abs=1e-3)


@pytest.mark.parametrize("solve", ["fair", "cone"])
def test_a_device_takes_every_newton_step_to_the_same_numbers(solve, monkeypatch):
    hard = [problems(12, kind, 4)[1:] for kind in KINDS]

    def solved(cosine, norms):
        if solve == "cone":
            return largest_least_gain(*in_a_ball(0.4, cosine, norms))
        return fair_shares(cosine, torch.ones_like(norms), 1.0)

    expected = [solved(*problem) for problem in hard]
    monkeypatch.setattr(solver, "on_host", lambda tensor: False)
    monkeypatch.setattr(cone_solver, "on_host", lambda tensor: False)
    for problem, x in zip(hard, expected, strict=True):
        torch.testing.assert_close(solved(*problem), x, rtol=1e-9, atol=1e-12)


def test_sets_found_by_the_interior_point_are_those_of_all_sets(monkeypatch):
    hard = [in_a_ball(0.4, *problems(7, kind, 20)[1:]) for kind in KINDS]
    expected = [largest_least_gain(*problem) for problem in hard]
    monkeypatch.setattr(cone_solver, "ENUMERATED", 6)
    for (Q, b, a), v in zip(hard, expected, strict=True):
        found = largest_least_gain(Q, b, a)
        torch.testing.assert_close((Q @ found.unsqueeze(-1)), (Q @ v.unsqueeze(-1)), rtol=1e-6, atol=1e-6)
