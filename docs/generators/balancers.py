"""A page for each balancer, from its docstring and the recorded results."""

import inspect
import re

from docs.generators import benchmark_tables, claims_tables
from docs.generators.markdown import cell, table
from recmtl import balance
from recmtl.balance import Balancer

FAMILIES = {
    "LossWeightBalancer": ("Loss weights", "weigh each loss as a whole, towers included"),
    "TaskGradientBalancer": (
        "Task gradients",
        "combine the tasks' gradients of the shared tensors; towers keep theirs",
    ),
    "RepresentationBalancer": ("Representation", "change the gradients where the representation forks into heads"),
}


def names() -> list[str]:
    """Return the exported balancers that can be used as they are, in alphabetical order."""
    found = []
    for name in balance.__all__:
        value = getattr(balance, name)
        if inspect.isclass(value) and issubclass(value, Balancer) and not inspect.isabstract(value):
            found.append(name)
    return sorted(found, key=str.lower)


def family(name: str) -> str:
    """Return the name of the abstract class that a balancer extends."""
    bases = [base.__name__ for base in getattr(balance, name).__mro__]
    return next((base for base in bases if base in FAMILIES), "Balancer")


def pages() -> dict[str, str]:
    """Return the pages of all balancers and their index, by path."""
    return {"balancers/index.md": index(), **{file_of(name): page(name) for name in names()}}


def file_of(name: str) -> str:
    """Return the path of the page of a balancer."""
    return f"balancers/{name.lower()}.md"


def first_line(name: str) -> str:
    """Return the first line of the docstring."""
    return cell((inspect.getdoc(getattr(balance, name)) or "").split("\n\n")[0])


def source(name: str) -> str:
    """Return where the paper of a balancer stands, as a link to arXiv, or nothing."""
    found = re.search(r"arXiv:(\d{4}\.\d{4,5})", inspect.getdoc(getattr(balance, name)) or "")
    return f"[arXiv:{found[1]}](https://arxiv.org/abs/{found[1]})" if found else "–"


def index() -> str:
    """Return the page that lists the balancers by family."""
    parts = [
        "# Balancers",
        "",
        "[Families of balancers](../concepts/balancers.md) explains where each family acts, and",
        "[When balancing helps](../when_balancing_helps.md) what was measured.",
        "",
    ]
    for base, (title, what) in [*FAMILIES.items(), ("Balancer", ("Others", "act elsewhere"))]:
        members = [name for name in names() if family(name) == base]
        if members:
            rows = [(f"[`{name}`]({name.lower()}.md)", first_line(name), source(name)) for name in members]
            parts += [f"## {title}", "", f"These {what}.", "", table(["", "what it does", "paper"], rows, right=3), ""]
    return "\n".join(parts)


def page(name: str) -> str:
    """Return the page of one balancer."""
    cls = getattr(balance, name)
    parts = [f"::: {cls.__module__}.{name}", "    options:", "      heading_level: 1", ""]
    parts += ["## Use it", "", "In the command:", "", command(name), "", "In a loop of your own:", "", loop(name), ""]
    cost = benchmark_tables.balancer_cost(name)
    if cost and name != "Sum":
        parts += [
            "## Cost",
            "",
            "The time of a step over that of a step with `Sum`, by the number of tasks:",
            "",
            cost,
            "",
        ]
    measured = claims_tables.claims(name) if name != "Sum" else None
    if measured:
        parts += [
            "## Measured on planted problems",
            "",
            "The error of each task (1: no better than the mean label), in brackets the difference to `Sum` with its",
            "95 % interval, and the cosine of the tasks' gradients before and after training.",
            "[When balancing helps](../when_balancing_helps.md) explains the problems.",
            "",
            measured,
        ]
    return "\n".join(parts)


def command(name: str) -> str:
    """Return a block with a training by the command."""
    line = f"$ recmtl train --config demo --data.train rows/train.csv --data.test rows/test.csv --balancer {name}"
    return f"```console\n{line} --trainer.epochs 1 --run runs/{name.lower()}\n```"


def loop(name: str) -> str:
    """Return a block with a step in a loop."""
    cls = getattr(balance, name)
    rotates = "heads" in inspect.signature(cls).parameters
    build = f"{name}(heads=2, features=16)" if rotates else f"{name}()"
    optimizer = "optimizer = torch.optim.Adam([*bottom.parameters(), *heads.parameters()])"
    if rotates:
        optimizer = """optimizer = torch.optim.Adam([
    {"params": [*bottom.parameters(), *heads.parameters()]},
    {"params": balancer.parameters(), "lr": 1e-4},  # the rotations' own learning rate
])"""
    return f"""```python
import torch
from torch import nn
from recmtl.balance import {name}

bottom = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
heads = nn.ModuleList([nn.Linear(16, 1), nn.Linear(16, 1)])
balancer = {build}
{optimizer}
inputs, targets = torch.randn(64, 8), torch.randn(2, 64)

def losses():
    shared = bottom(inputs)  # [B, D]
    views = balancer.fork([shared, shared])
    return [(head(view).squeeze(1) - target).square().mean() for head, view, target in zip(heads, views, targets)]

for step in range(3):
    optimizer.zero_grad()
    balancer.backward(losses(), shared=list(bottom.parameters()))
    optimizer.step()
{told(cls)}```"""


def told(cls: type[Balancer]) -> str:
    """Return the lines by which a loop tells a balancer of more than its losses."""
    if cls.needs_losses_after_step:
        return "    with torch.no_grad():\n        balancer.after_step(losses())  # of the same batch\n"
    return "balancer.end_epoch()  # after the last step of each epoch\n" if cls.needs_epochs else ""
