"""Two losses of two parameters, on which methods that promise a Pareto optimum are compared.

Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, arXiv:2110.14048, use these
losses, and so do the papers of Nash-MTL and FAMO. Where θ_2 > 0 they have steep valleys, in which a step of the plain
sum goes back and forth; where θ_2 < 0 lie the Pareto optima, between those of two quadratic functions. The starts are
drawn before the valleys, on the way from the published starts (−8.5, 7.5) and (9, 9). The losses are raised by a
constant, so that they are positive, as some methods need them.

The code of CAGrad's authors takes 100,000 steps of Adam at a rate of 0.001. Here there are hundreds, at forty times the
rate, which falls to 0, and Adam's average of squares is shorter: β_2 is 0.9. Both were chosen on starts that are not
reported, by `Sum` and `MGDA`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from benchmarks.claims_problems import Method

STEPS, RATE, NEAR = 700, 0.04, 0.5  # `NEAR`: a distance that counts as reached
RAISED = 21.0  # no loss is below −20


def two_losses(theta: Tensor) -> list[Tensor]:
    """The losses at parameters `[..., 2]`."""
    x, y = theta.unbind(-1)
    upper, lower = torch.tanh(y / 2).clamp(min=0), torch.tanh(-y / 2).clamp(min=0)
    found = []
    for center, offset, sign in ((-7.0, 0.0, -1.0), (3.0, 2.0, 1.0)):
        valley = (0.5 * (center - x) + sign * torch.tanh(-y) + offset).abs().clamp(min=5e-6).log() + 6
        bowl = ((x - math.copysign(7, -sign)).square() + 0.1 * (y + 8).square()) / 10 - 20
        found.append(upper * valley + lower * bowl + RAISED)
    return found


def pareto_set(points: int = 201) -> Tensor:
    """Parameters that minimize a weighted mean of the losses, for weights from 0 to 1: `[points, 2]`."""
    share = torch.linspace(0, 1, points, dtype=torch.float64)
    x = 7 * (2 * share - 1)  # where both bowls are, whatever y
    y = torch.linspace(-12, -4, 8001, dtype=torch.float64)
    first, second = two_losses(
        torch.stack([x[:, None].expand(-1, len(y)), y.expand(points, -1)], -1)
    )  # [points, 8001] each
    lowest = (share[:, None] * first + (1 - share[:, None]) * second).argmin(1)
    return torch.stack([x, y[lowest]], 1)


def distance(theta: Tensor) -> float:
    """The distance to the nearest Pareto optimum."""
    return float((pareto_set() - theta).norm(dim=1).min())


def start(seed: int) -> Tensor:
    """Parameters in one of two squares, by turns."""
    drawn = torch.rand(2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    side = 1 if seed % 2 else -1
    return torch.stack([side * (5 + 2 * drawn[0]), 2 + 2 * drawn[1]])


def descend(method: Method, seed: int, steps: int = STEPS) -> Tensor:
    """The parameters at which a method ends."""
    theta = start(seed).requires_grad_()
    balancer = method.make()
    balancer.setup(objectives=2, heads=2, features=2, parts=1, elements=2)
    optimizer = torch.optim.Adam([theta], lr=RATE, betas=(0.9, 0.9), fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        balancer.backward(two_losses(theta), [theta])
        optimizer.step()
        schedule.step()
        if balancer.needs_losses_after_step:
            with torch.no_grad():
                balancer.after_step(two_losses(theta))
    return theta.detach()
