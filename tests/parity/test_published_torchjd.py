"""The balancers beside TorchJD 0.18.0: from the same gradients and losses the same shared gradient.

TorchJD's aggregators take the Jacobian [K, N], its scalarizers the losses [K]. What it adds to Gram matrices and norms
by default, 1e-4 times their trace, is switched off: with gradients of sizes 1 : 100 it moves UPGrad by 20 %.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchjd import aggregation, scalarization
from torchjd.linalg import QuadprogProjector

from recmtl import balance
from recmtl.balance import Balancer

DOUBLE = {"dtype": torch.float64}
EXACT = QuadprogProjector(norm_eps=0.0, reg_eps=1e-13)
SHARES = torch.tensor([0.5, 0.2, 0.2, 0.1], **DOUBLE)
STEPS = 4


def shares(tasks: int) -> Tensor:
    return SHARES[:tasks] / SHARES[:tasks].sum()


def gradients(tasks: int, kind: str, seed: int) -> Tensor:
    """Gradients [K, 12]: random ones, some that conflict, and such of different sizes."""
    random = torch.Generator().manual_seed(seed)
    G = torch.randn(tasks, 12, generator=random, **DOUBLE)
    if kind == "conflicting":
        G = 0.5 * G + torch.linspace(-1, 1, tasks, **DOUBLE)[:, None]
    if kind == "sizes":
        G = G * torch.logspace(-1, 1, tasks, **DOUBLE)[:, None]
    return G


def losses_of(tasks: int, seed: int) -> Tensor:
    return 0.1 + 3 * torch.rand(tasks, generator=torch.Generator().manual_seed(seed), **DOUBLE)


def shared_gradient(balancer: Balancer, G: Tensor, losses: Tensor | None = None) -> Tensor:
    """The gradient that the balancer gives a shared vector whose tasks have these gradients and losses."""
    x = torch.zeros(G.shape[1], **DOUBLE, requires_grad=True)
    at = torch.ones(len(G), **DOUBLE) if losses is None else losses
    balancer.backward(list(G @ x + at), [x])
    assert x.grad is not None
    return x.grad


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


AGGREGATORS: dict[str, tuple[Callable[[int], Balancer], Callable[[int], aggregation.Aggregator], float]] = {
    # Frank and Wolfe's iterations, on which TorchJD relies, converge slowly.
    "MGDA": (lambda _: balance.MGDA(), lambda _: aggregation.MGDA(epsilon=1e-10, max_iters=10_000), 5e-3),
    "UPGrad": (lambda _: balance.UPGrad(), lambda _: aggregation.UPGrad(projector=EXACT), 1e-8),
    "UPGrad, preference": (
        lambda K: balance.UPGrad(preference=shares(K).tolist()),
        lambda K: aggregation.UPGrad(shares(K), EXACT),
        1e-8,
    ),
    "DualProj": (lambda _: balance.DualProj(), lambda _: aggregation.DualProj(projector=EXACT), 1e-8),
    # The tolerance is that of the general solver behind TorchJD's.
    "CAGrad": (lambda _: balance.CAGrad(c=0.4), lambda _: aggregation.CAGrad(c=0.4, norm_eps=0.0), 1e-4),
    "IMTLG": (lambda _: balance.IMTLG(), lambda _: aggregation.IMTLG(), 1e-6),
    "AlignedMTL": (lambda _: balance.AlignedMTL(), lambda _: aggregation.AlignedMTL(), 1e-6),
    "FairGrad": (lambda _: balance.FairGrad(alpha=1.0), lambda _: aggregation.FairGrad(alpha=1.0), 1e-6),
    "FairGrad, 2": (lambda _: balance.FairGrad(alpha=2.0), lambda _: aggregation.FairGrad(alpha=2.0), 1e-6),
}


@pytest.mark.parametrize("kind", ["random", "conflicting", "sizes"])
@pytest.mark.parametrize("tasks", [2, 4])
@pytest.mark.parametrize("name", AGGREGATORS)
def test_the_same_shared_gradient(name: str, tasks: int, kind: str) -> None:
    mine, theirs, tolerance = AGGREGATORS[name]
    for seed in range(5):
        G = gradients(tasks, kind, seed)
        assert error(shared_gradient(mine(tasks), G), theirs(tasks)(G)) < tolerance


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")
@pytest.mark.parametrize("kind", ["random", "conflicting", "sizes"])
@pytest.mark.parametrize("tasks", [2, 4])
def test_nash_mtl_is_the_same_where_torchjd_solves_its_equations(tasks: int, kind: str) -> None:
    """Its sequence of convex programs does not always converge; then the equations M·α = 1/α say which is right."""
    for seed in range(5):
        G = gradients(tasks, kind, seed)
        theirs = aggregation.NashMTL(tasks, max_norm=0.0, optim_niter=100)
        expected = theirs(G)
        found = shared_gradient(balance.NashMTL(max_norm=None), G)
        mine, published = (torch.linalg.lstsq(G.T, g[:, None]).solution[:, 0] * (G @ g) for g in (found, expected))
        torch.testing.assert_close(mine, torch.ones_like(mine), rtol=1e-6, atol=1e-6)
        assert (published - 1).abs().max() > 1e-6 or error(found, expected) < 1e-5


def test_gradvac_over_several_steps() -> None:
    """With two tasks, whose order is given."""
    mine, theirs = balance.GradVac(beta=0.5, reduction="sum"), aggregation.GradVac(beta=0.5, eps=0.0)
    for seed in range(STEPS):
        G = gradients(2, "conflicting", seed)
        assert error(shared_gradient(mine, G), theirs(G)) < 1e-6  # its state is float32


def test_excess_mtl_over_several_steps() -> None:
    """Weights that add up to 1 there and to K here; it adds 1e-7 to the roots.

    Without `n_warmup_steps` its first step moves the weights by a risk in another unit, as the authors' code does.
    """
    mine, theirs = balance.ExcessMTL(lr=0.5), aggregation.ExcessMTL(robust_step_size=0.5, n_warmup_steps=1)
    for seed in range(STEPS):
        G = gradients(4, "sizes", seed)
        assert error(shared_gradient(mine, G), 4 * theirs(G)) < 1e-5


SCALARIZERS: dict[str, tuple[Callable[[int], Balancer], Callable[[int], scalarization.Scalarizer]]] = {
    "GLS": (lambda _: balance.GLS(), lambda _: scalarization.GeometricMean()),
    "STCH": (
        lambda K: balance.STCH(mu=0.3, preference=shares(K).tolist(), reference=[0.05] * K),
        lambda K: scalarization.STCH(0.3, shares(K), torch.full((K,), 0.05, **DOUBLE)),
    ),
    "IMTLL": (lambda _: balance.IMTLL(), lambda K: scalarization.IMTLL(K).double()),
    "UncertaintyWeighting": (
        lambda K: balance.UncertaintyWeighting(regressions=list(range(K))),
        lambda K: scalarization.UW(K).double(),
    ),
    "FAMO": (lambda _: balance.FAMO(decay=1e-3), lambda K: scalarization.FAMO(K, weight_decay=1e-3).double()),
    "DWA": (lambda _: balance.DWA(), lambda _: scalarization.DWA()),
}


@pytest.mark.parametrize("tasks", [2, 4])
@pytest.mark.parametrize("name", SCALARIZERS)
def test_the_same_weights_of_losses_over_several_steps(name: str, tasks: int) -> None:
    """Each step is an epoch of DWA's; s of uncertainty weighting and IMTL-L follow an Adam."""
    made, published = SCALARIZERS[name]
    mine, theirs = made(tasks), published(tasks)
    own = list(theirs.parameters())
    optimizer = torch.optim.Adam(own, lr=0.025) if name in ("IMTLL", "UncertaintyWeighting") else None
    for step in range(STEPS):
        losses = losses_of(tasks, step)
        values = losses.clone().requires_grad_()
        for parameter in own:
            parameter.grad = None
        theirs(values).backward()
        found = shared_gradient(mine, torch.eye(tasks, **DOUBLE), losses)
        torch.testing.assert_close(found, values.grad, rtol=1e-6, atol=1e-9)
        if optimizer is not None:
            optimizer.step()
        if isinstance(theirs, scalarization.FAMO):
            after = losses_of(tasks, 100 + step)
            theirs.update(after)
            mine.after_step(list(after))
        if isinstance(theirs, scalarization.DWA):
            theirs.step()
            mine.end_epoch()
