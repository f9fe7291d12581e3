"""What each balancer claims, on problems planted for it: python -m benchmarks.claims [--json FILE]

Tasks share one bottom. For each of ten seeds every method trains on the same rows and batches, from the same weights,
with the same optimizer for the same number of steps. The error of a task is its mean square on held-out rows over the
variance of its labels: 1 is what their mean would reach. Where there are more than two tasks, the second error is the
mean of all but the first. Differences to `Sum` are paired by seed, with 95 % t intervals. `benchmarks.claims_pareto`
adds two losses of two parameters, where what counts is whether a method ends at a Pareto optimum.

The optimizer is Adam, its rate falling linearly to 0. Adam cancels whatever multiplies a parameter's gradients at all
steps, so that neither the scale of a loss decides how fast its head learns, nor the length of a balanced step how fast
the bottom does. What is left is what the tasks do to each other in the bottom. Methods that project conflicts take
`reduction="sum"`; all other options are the defaults, where a method's name says nothing else. Epochs have ROWS / BATCH
steps. Strengths of the problems were chosen on seeds from 100 on.

What `--json` holds already is not trained again, so that methods can be added to it; what is added is compared with the
`Sum` on record.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import claims_pareto
from benchmarks.claims_problems import CLAIMS, INPUTS, METHODS, PLAIN, PROBLEMS, Method, Net, Problem, claiming
from recmtl.balance import Balancer, RotationBalancer
from recmtl.recipe.environment import environment

SEEDS = range(10)
T_95 = 2.262  # of Student's t with 9 degrees of freedom: ten seeds
ROWS, BATCH = 2048, 128


@dataclass(frozen=True)
class Outcome:
    """The error of the first task, the mean of the others', and the cosine at the views before and after training."""

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
    """What a method did over the seeds; the differences are those of the first task, the others, and their mean."""

    errors: list[tuple[float, float]]  # by seed
    mean: list[float]
    sd: list[float]
    first: Difference
    second: Difference
    both: Difference
    cosines: list[float]  # means, before and after training


def train(problem: Problem, method: Method, seed: int) -> Outcome:
    """Trains one net; the seed decides rows, batches and first weights, whatever the method."""
    torch.manual_seed(seed)
    x, labels = rows(problem)
    batches = torch.randint(ROWS, (problem.steps, BATCH))
    net, balancer = problem.net().double(), method.make()
    shared = list(net.bottom.parameters())
    tasks, elements = len(net.heads), sum(parameter.numel() for parameter in shared)
    balancer.setup(objectives=tasks, heads=tasks, features=net.features, parts=len(shared), elements=elements)
    groups: list[dict[str, Any]] = [
        {"params": list(net.parameters())},
        {"params": list(balancer.parameters()), "lr": method.own_rate or problem.own_rate},
    ]
    optimizer = torch.optim.Adam(groups, lr=problem.rate, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, problem.steps)
    before = cosine(problem, net, balancer, x[:ROWS], labels[:ROWS])
    for step, batch in enumerate(batches, 1):
        losses = partial(views_and_losses, problem, net, balancer, x[batch], labels[batch])
        balancer.backward(losses()[1], shared)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if balancer.needs_losses_after_step:
            with torch.no_grad():
                balancer.after_step(losses()[1])
        if step % (ROWS // BATCH) == 0:
            balancer.end_epoch()
    after = cosine(problem, net, balancer, x[:ROWS], labels[:ROWS])
    return Outcome(errors(net, balancer, x[ROWS:], labels[ROWS:]), (before, after))


def rows(problem: Problem) -> tuple[Tensor, Tensor]:
    """Training rows and as many held out: `[2 * ROWS, INPUTS]` and `[2 * ROWS, K, outputs]`."""
    x = torch.randn(2 * ROWS, INPUTS, dtype=torch.float64)
    labels = problem.labels(x)
    noise = torch.tensor(problem.noise, dtype=torch.float64)[:, None]  # [1 or K, 1]
    return x, labels / labels.std(0) + noise * torch.randn_like(labels)


def views_and_losses(
    problem: Problem, net: Net, balancer: Balancer, x: Tensor, labels: Tensor
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    shared = net.bottom(x)  # [B, features]
    views = balancer.fork([shared] * len(net.heads))
    tasks = zip(net.heads, views, labels.unbind(1), problem.scales, strict=True)
    return views, [scale * (head(view) - label).square().mean() for head, view, label, scale in tasks]


def cosine(problem: Problem, net: Net, balancer: Balancer, x: Tensor, labels: Tensor) -> float:
    """The cosine over all rows between h_1 and Σ h_k of the others, the gradients at the views before any rotation."""
    views, losses = views_and_losses(problem, net, balancer, x, labels)
    h = [torch.autograd.grad(loss, view, retain_graph=True)[0] for loss, view in zip(losses, views, strict=True)]
    if isinstance(balancer, RotationBalancer):
        h = [gradient @ rotation.to(gradient) for gradient, rotation in zip(h, balancer.rotation(), strict=True)]
    return torch.cosine_similarity(h[0].flatten(), torch.stack(h[1:]).sum(0).flatten(), dim=0).item()


@torch.no_grad()
def errors(net: Net, balancer: Balancer, x: Tensor, labels: Tensor) -> tuple[float, float]:
    shared = net.bottom(x)
    tasks = zip(net.heads, balancer.fork([shared] * len(net.heads)), labels.unbind(1), strict=True)
    first, *others = ((head(view) - y).square().mean().item() / y.var(0).mean().item() for head, view, y in tasks)
    return first, sum(others) / len(others)


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


def measure(
    problem: Problem, names: Iterable[str], seeds: Sequence[int] = SEEDS, plain: Sequence[Outcome] = ()
) -> dict[str, Row]:
    """Trains the methods of these names on every seed, and `Sum` where its outcomes are not given."""
    known = METHODS | dict(problem.variants)
    trained = dict.fromkeys((PLAIN, *names) if not plain else names)
    outcomes = {name: [train(problem, known[name], seed) for seed in seeds] for name in trained}
    return {name: summary(found, plain or outcomes[PLAIN]) for name, found in outcomes.items()}


def measure_pareto(names: Iterable[str], seeds: Sequence[int] = SEEDS) -> dict[str, dict[str, Any]]:
    """Descends from the start of every seed by `Sum` and by the methods of these names."""
    ends = {n: [claims_pareto.descend(METHODS[n], seed) for seed in seeds] for n in dict.fromkeys((PLAIN, *names))}
    far = {name: torch.tensor([claims_pareto.distance(end) for end in found]) for name, found in ends.items()}
    return {
        name: {
            "ends": [end.tolist() for end in ends[name]],
            "distances": found.tolist(),
            "reached": int((found < claims_pareto.NEAR).sum()),
            "distance": asdict(difference(found, far[PLAIN])),
        }
        for name, found in far.items()
    }


def table(problem: Problem, results: Mapping[str, Row]) -> Table:
    made = Table("method", "first task", "other tasks", "cosine", title=problem.title)
    for column in ("first", "others"):
        made.add_column(f"{column} − {PLAIN}")
    for name, row in results.items():
        cells = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(row.mean, row.sd, strict=True)]
        cells.append(" → ".join(f"{cosine:+z.2f}" for cosine in row.cosines))
        if name != PLAIN:
            cells += [f"{d.mean:+z.3f} ± {d.half:.3f} {d.verdict}" for d in (row.first, row.second)]
        made.add_row(name, *cells)
    return made


def described(problem: Problem, methods: dict[str, Any]) -> dict[str, Any]:
    """What is recorded of a problem."""
    return {
        "title": problem.title,
        "loss_scales": problem.scales,
        "noise": problem.noise,
        "steps": problem.steps,
        "rate": problem.rate,
        "own_rate": problem.own_rate,
        "methods": methods,
    }


def on_record(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The methods of a problem that are on record.

    Raises:
        ValueError: If the problem was another one when they were measured.
    """
    record = content["results"].get(name, {"methods": {}})
    now = json.loads(json.dumps(described(PROBLEMS[name], {})))
    for key, value in record.items():
        if key != "methods" and value != now[key]:
            raise ValueError(
                f"`{key}` of problem {name!r} is {now[key]}, but {value} on record: delete its record first"
            )
    methods: dict[str, Any] = record["methods"]
    return methods


def errors_on_record(row: Mapping[str, Any]) -> list[Outcome]:
    """The errors of every seed; their cosines are not kept."""
    return [Outcome((first, second), (math.nan, math.nan)) for first, second in row["errors"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    file: Path | None = parser.parse_args().json
    torch.set_num_threads(1)
    content: dict[str, Any] = {"command": "python -m benchmarks.claims", "machine": environment(), "results": {}}
    if file and file.exists():
        content = json.loads(file.read_text(encoding="utf-8"))
    for name, problem in PROBLEMS.items():
        known = on_record(content, name)
        missing = [method for method in (*problem.methods, *problem.variants) if method not in known]
        if missing:
            plain = errors_on_record(known[PLAIN]) if PLAIN in known else ()
            measured = measure(problem, missing, plain=plain)
            Console(width=150).print(table(problem, measured))
            known |= {method: asdict(row) for method, row in measured.items()}
        content["results"][name] = described(problem, known)
        write(file, content)
    if "pareto" not in content:
        content["pareto"] = {"steps": claims_pareto.STEPS, "methods": measure_pareto(claiming("pareto", "RLW"))}
    content["claims"] = CLAIMS
    write(file, content)


def write(file: Path | None, content: Mapping[str, Any]) -> None:
    if file:
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
