"""What each balancer claims, on problems planted for it: python -m benchmarks.claims [--json FILE]

Two tasks share one bottom. For each of ten seeds every method trains on the same rows and batches, from the same
weights, with the same optimizer for the same number of steps. The error of a task is its mean square on held-out rows
over the variance of its labels: 1 is what their mean would reach. Differences to `Sum` are paired by seed, with 95 % t
intervals.

The optimizer is Adam, its rate falling linearly to 0. Adam cancels whatever multiplies a parameter's gradients at all
steps, so that neither the scale of a loss decides how fast its head learns, nor the length of a balanced step how fast
the bottom does. What is left is what the tasks do to each other in the bottom. PCGrad and PPCGrad take
`reduction="sum"`; all other options are the defaults, where a method's name says nothing else.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from recmtl import balance
from recmtl.balance import Balancer, RotationBalancer
from recmtl.recipe.classes import known_names
from recmtl.recipe.environment import environment

SEEDS = range(10)
T_95 = 2.262  # of Student's t with 9 degrees of freedom: ten seeds
PLAIN = "Sum"
INPUTS, ROWS, BATCH, NOISE = 16, 2048, 128, 0.3


@dataclass(frozen=True)
class Method:
    """A balancer, and the rate of its own parameters where it is not that of the problem."""

    make: Callable[[], Balancer]
    own_rate: float | None = None


@dataclass(frozen=True)
class Problem:
    """Two tasks on one bottom: what they want, and how they are trained."""

    title: str
    labels: Callable[[Tensor], Tensor]  # [B, INPUTS] -> [B, 2, outputs], before the noise
    net: Callable[[], Net]
    scales: tuple[float, float] = (1.0, 1.0)  # of the two losses
    steps: int = 400
    rate: float = 0.01
    own_rate: float = 0.01
    variants: Mapping[str, Method] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The error of each task, and the cosine of their gradients at the views before and after training."""

    errors: tuple[float, float]
    cosines: tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and half the width of its 95 % interval."""

    mean: float
    half: float

    @property
    def verdict(self) -> str:
        if abs(self.mean) <= self.half:
            return "no difference"
        return "better" if self.mean < 0 else "worse"


@dataclass(frozen=True)
class Row:
    """What a method did over the seeds; the differences are those of the first task, the second, and their mean."""

    errors: list[tuple[float, float]]  # by seed
    mean: list[float]
    sd: list[float]
    first: Difference
    second: Difference
    both: Difference
    cosines: list[float]  # means, before and after training


class Net(nn.Module):
    """A bottom and two heads."""

    def __init__(self, bottom: Sequence[nn.Module], features: int, head: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.bottom = nn.Sequential(*bottom)
        self.heads = nn.ModuleList(head() for _ in range(2))
        self.features = features


def directions(count: int) -> Tensor:
    """Orthonormal columns, `[INPUTS, count]`."""
    basis: Tensor = torch.linalg.qr(torch.randn(INPUTS, INPUTS, dtype=torch.float64))[0]
    return basis[:, :count]


def separate(x: Tensor) -> Tensor:
    """Each task is a function of three directions of its own."""
    features = torch.tanh(1.5 * x @ directions(6))  # [B, 6]
    return features.view(-1, 2, 3).sum(2, keepdim=True)  # [B, 2, 1]


def opposed(x: Tensor) -> Tensor:
    """The tasks agree on one function and want another, as large, with opposite signs."""
    agreed, disputed = separate(x).unbind(1)
    return torch.stack([agreed + disputed, agreed - disputed], 1)  # [B, 2, 1]


def with_a_quarter_turn(features: Tensor) -> Tensor:
    """The features and the same turned by 90° in random planes: `[B, D]` -> `[B, 2, D]`."""
    size = features.shape[1]
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64))[0]
    turn = torch.kron(torch.eye(size // 2), torch.tensor([[0.0, -1.0], [1.0, 0.0]])).to(basis)
    return torch.stack([features, features @ (basis @ turn @ basis.T)], 1)


def rotated(x: Tensor) -> Tensor:
    """The tasks want the same four features, the second in a turned basis."""
    return with_a_quarter_turn(torch.tanh(1.5 * x @ directions(4)))  # [B, 2, 4]


def rotated_units(x: Tensor) -> Tensor:
    """The tasks are the same function of four features, the second of the turned ones."""
    signs = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    return torch.tanh(3 * with_a_quarter_turn(x @ directions(4))) @ signs  # [B, 2, 1]


def two_layers(features: int) -> list[nn.Module]:
    return [nn.Linear(INPUTS, 32), nn.ReLU(), nn.Linear(32, features)]


def tanh_units() -> nn.Module:
    return nn.Sequential(nn.Tanh(), nn.Linear(4, 1))


METHODS = {
    name: Method(getattr(balance, name)) for name in (PLAIN, *(n for n in known_names("balancer") if n != PLAIN))
} | {
    "PCGrad": Method(lambda: balance.PCGrad(reduction="sum")),
    "PPCGrad": Method(lambda: balance.PPCGrad(reduction="sum")),
}
TARGETS = {"MetaBalance(target=1)": Method(lambda: balance.MetaBalance(target=1))}
ROTATIONS = {
    "RotateOnly, its rate 0.001": Method(balance.RotateOnly, own_rate=0.001),
    "RotateOnly().coop()": Method(lambda: balance.RotateOnly().coop()),
}
PROBLEMS = {
    "scale": Problem(
        "losses 1 : 1000",
        separate,
        lambda: Net(two_layers(4), 4, tanh_units),
        scales=(1.0, 1000.0),
        steps=500,
        rate=0.02,
        variants=TARGETS
        | {
            "MetaBalance(relax_factor=1)": Method(lambda: balance.MetaBalance(relax_factor=1.0)),
            "GradNorm(lr=0.1)": Method(lambda: balance.GradNorm(lr=0.1)),
        },
    ),
    "opposed": Problem(
        "one score, opposed tasks, losses 1 : 10",
        opposed,
        lambda: Net(two_layers(1), 1, nn.Identity),
        scales=(1.0, 10.0),
        variants=TARGETS,
    ),
    "opposed_equal": Problem(
        "one score, opposed tasks, losses 1 : 1", opposed, lambda: Net(two_layers(1), 1, nn.Identity)
    ),
    "rotated": Problem(
        "rotated copies, the view is the output",
        rotated,
        lambda: Net(two_layers(4), 4, nn.Identity),
        variants=ROTATIONS,
    ),
    "rotated_linear": Problem(
        "rotated copies, linear heads",
        rotated,
        lambda: Net(two_layers(4), 4, lambda: nn.Linear(4, 4)),
        variants=ROTATIONS,
    ),
    "rotated_units": Problem(
        "rotated copies, heads of tanh units",
        rotated_units,
        lambda: Net([nn.Linear(INPUTS, 4)], 4, tanh_units),
        rate=0.02,
        variants=ROTATIONS,
    ),
}


def train(problem: Problem, method: Method, seed: int) -> Outcome:
    """Trains one net; the seed decides rows, batches and first weights, whatever the method."""
    torch.manual_seed(seed)
    x, labels = rows(problem)
    batches = torch.randint(ROWS, (problem.steps, BATCH))
    net, balancer = problem.net().double(), method.make()
    shared = list(net.bottom.parameters())
    balancer.setup(objectives=2, heads=2, features=net.features, parts=len(shared))
    groups: list[dict[str, Any]] = [
        {"params": list(net.parameters())},
        {"params": list(balancer.parameters()), "lr": method.own_rate or problem.own_rate},
    ]
    optimizer = torch.optim.Adam(groups, lr=problem.rate, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, problem.steps)
    before = cosine(problem, net, balancer, x[:ROWS], labels[:ROWS])
    for batch in batches:
        _, losses = views_and_losses(problem, net, balancer, x[batch], labels[batch])
        balancer.backward(losses, shared)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    after = cosine(problem, net, balancer, x[:ROWS], labels[:ROWS])
    return Outcome(errors(net, balancer, x[ROWS:], labels[ROWS:]), (before, after))


def rows(problem: Problem) -> tuple[Tensor, Tensor]:
    """Training rows and as many held out: `[2 * ROWS, INPUTS]` and `[2 * ROWS, 2, outputs]`."""
    x = torch.randn(2 * ROWS, INPUTS, dtype=torch.float64)
    labels = problem.labels(x)
    return x, labels / labels.std(0) + NOISE * torch.randn_like(labels)


def views_and_losses(
    problem: Problem, net: Net, balancer: Balancer, x: Tensor, labels: Tensor
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    shared = net.bottom(x)  # [B, features]
    views = balancer.fork([shared, shared])
    tasks = zip(net.heads, views, labels.unbind(1), problem.scales, strict=True)
    return views, [scale * (head(view) - label).square().mean() for head, view, label, scale in tasks]


def cosine(problem: Problem, net: Net, balancer: Balancer, x: Tensor, labels: Tensor) -> float:
    """The cosine between h_1 and h_2, the tasks' gradients at the views before any rotation, over all rows."""
    views, losses = views_and_losses(problem, net, balancer, x, labels)
    h = [torch.autograd.grad(loss, view, retain_graph=True)[0] for loss, view in zip(losses, views, strict=True)]
    if isinstance(balancer, RotationBalancer):
        h = [gradient @ rotation.to(gradient) for gradient, rotation in zip(h, balancer.rotation(), strict=True)]
    return torch.cosine_similarity(h[0].flatten(), h[1].flatten(), dim=0).item()


@torch.no_grad()
def errors(net: Net, balancer: Balancer, x: Tensor, labels: Tensor) -> tuple[float, float]:
    shared = net.bottom(x)
    tasks = zip(net.heads, balancer.fork([shared, shared]), labels.unbind(1), strict=True)
    first, second = ((head(view) - y).square().mean() / y.var(0).mean() for head, view, y in tasks)
    return first.item(), second.item()


def difference(values: Tensor, plain: Tensor) -> Difference:
    """Of paired values, `[seeds]` each."""
    paired = values - plain
    assert len(paired) == len(SEEDS), "the quantile is that of ten seeds"
    return Difference(paired.mean().item(), T_95 * paired.std().item() / math.sqrt(len(paired)))


def summary(outcomes: Sequence[Outcome], plain: Sequence[Outcome]) -> Row:
    found = torch.tensor([outcome.errors for outcome in outcomes], dtype=torch.float64)  # [seeds, 2]
    reference = torch.tensor([outcome.errors for outcome in plain], dtype=torch.float64)
    return Row(
        errors=[outcome.errors for outcome in outcomes],
        mean=found.mean(0).tolist(),
        sd=found.std(0).tolist(),
        first=difference(found[:, 0], reference[:, 0]),
        second=difference(found[:, 1], reference[:, 1]),
        both=difference(found.mean(1), reference.mean(1)),
        cosines=torch.tensor([outcome.cosines for outcome in outcomes], dtype=torch.float64).mean(0).tolist(),
    )


def measure(problem: Problem, names: Iterable[str], seeds: Sequence[int] = SEEDS) -> dict[str, Row]:
    """Trains `Sum` and the methods of these names on every seed."""
    known = METHODS | dict(problem.variants)
    outcomes = {name: [train(problem, known[name], seed) for seed in seeds] for name in dict.fromkeys((PLAIN, *names))}
    return {name: summary(found, outcomes[PLAIN]) for name, found in outcomes.items()}


def table(problem: Problem, results: Mapping[str, Row]) -> Table:
    made = Table("method", "first task", "second task", "cosine", title=problem.title)
    for column in ("first", "second"):
        made.add_column(f"{column} − {PLAIN}")
    for name, row in results.items():
        cells = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(row.mean, row.sd, strict=True)]
        cells.append(" → ".join(f"{cosine:+z.2f}" for cosine in row.cosines))
        if name != PLAIN:
            cells += [f"{d.mean:+z.3f} ± {d.half:.3f} {d.verdict}" for d in (row.first, row.second)]
        made.add_row(name, *cells)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for name, problem in PROBLEMS.items():
        measured = measure(problem, [*METHODS, *problem.variants])
        Console(width=150).print(table(problem, measured))
        results[name] = {
            "title": problem.title,
            "loss_scales": problem.scales,
            "steps": problem.steps,
            "rate": problem.rate,
            "own_rate": problem.own_rate,
            "methods": {method: asdict(row) for method, row in measured.items()},
        }
    if arguments.json:
        content = {"command": "python -m benchmarks.claims", "machine": environment(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
