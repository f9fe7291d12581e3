"""The tables of `benchmarks.claims`: what each balancer does on problems planted for it, and which one to choose."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

from docs.generators.markdown import cell, machine, table
from recmtl import balance
from recmtl.balance import Balancer, RotationBalancer

RECORD = Path(__file__).parents[2] / "benchmarks" / "results" / "claims.json"

# What shows the effect on a problem: the difference of the first task, of the others, or of both.
EFFECTS = {
    "scale": ("1 : 1000, the small task", "first"),
    "opposed": ("opposed tasks, the weaker one", "first"),
    "minority": ("one against four, the one", "first"),
    "noise": ("noise, the clean task", "second"),
    "rotated": ("rotated copies, both tasks", "both"),
}


def record() -> dict[str, Any]:
    """Return the record."""
    content: dict[str, Any] = json.loads(RECORD.read_text())
    return content


def of_method(names: dict[str, Any], method: str) -> dict[str, Any]:
    """Return what is recorded of a method and its variants, by their names."""
    return {name: row for name, row in names.items() if re.match(rf"{method}\b", name)}


def claims(method: str | None = None) -> str | None:
    """Return the errors on planted problems, of all methods or of one beside `Sum`; None if it was not measured."""
    content = record()
    rows = []
    for problem in content["results"].values():
        found = problem["methods"]
        if method is not None:
            own = of_method(found, method)
            found = {"Sum": found["Sum"], **own} if own else {}
        rows += [(problem["title"], f"`{name}`", *errors(row, plain=name == "Sum")) for name, row in found.items()]
    if not rows:
        return None
    headers = ["problem", "method", "first task", "other tasks", "cosine"]
    return f"{table(headers, rows, right=2)}\n\n{machine(content)}"


def errors(row: dict[str, Any], plain: bool) -> list[str]:
    """Return the cells of a method: both errors with their differences to `Sum`, and the cosine."""
    cells = []
    for mean, key in zip(row["mean"], ("first", "second"), strict=True):
        change = "" if plain else f" ({signed(row[key])})"
        cells.append(f"{mean:.3f}{change}".replace("-", "−"))
    before, after = row["cosines"]
    return [*cells, f"{before:+.2f} → {after:+.2f}".replace("-", "−")]


def signed(difference: dict[str, float], digits: int = 3) -> str:
    """Return a difference and half the width of its interval."""
    return f"{difference['mean']:+.{digits}f} ± {difference['half']:.{digits}f}".replace("-", "−")


def pareto() -> str:
    """Return how many starts of the two-parameter problem lead each method to a Pareto optimum."""
    methods = record()["pareto"]["methods"]
    rows = [
        (
            f"`{name}`",
            f"{row['reached']} of {len(row['distances'])}",
            f"{sum(row['distances']) / len(row['distances']):.2f}",
            "" if name == "Sum" else signed(row["distance"], 2),
        )
        for name, row in methods.items()
    ]
    return table(["two losses of two parameters", "starts that reach an optimum", "distance", "minus `Sum`"], rows)


def choice() -> str:
    """Return the table to choose by: what each balancer is for, what it costs, and what is shown here."""
    names = sorted(record()["claims"], key=lambda name: (cost(getattr(balance, name)), name.lower()))
    rows = [
        (f"[`{name}`](balancers/{name.lower()}.md)", purpose(name), cost(getattr(balance, name)), evidence(name))
        for name in names
    ]
    return table(["method", "use it", "cost of a step", "shown here"], rows, right=4)


def purpose(name: str) -> str:
    """Return when to use a balancer: what its docstring says behind "Use it", up to the first stop."""
    text = cell(inspect.getdoc(getattr(balance, name)) or "")
    found = re.search(r"\bUse it (.+?)[.:;] ", text)
    assert found, f"the docstring of {name} does not say when to use it"
    return found[1]


def cost(cls: type[Balancer]) -> str:
    """Return the passes and the memory of a step."""
    families = {base.__name__ for base in cls.__mro__}
    if cls is balance.GradNorm:
        return "1 backward, and K of the last shared layer"
    if "TaskGradientBalancer" in families:
        kept = "; keeps K more copies of the shared tensors" if "elements" in cls.depends_on else ""
        return f"K backward, K gradients of the shared tensors{kept}"
    if issubclass(cls, RotationBalancer):
        return "1 backward, and rotations of H views"
    return "1 backward, 1 more forward" if cls.needs_losses_after_step else "1 backward"


def evidence(name: str) -> str:
    """Return what the record shows of a balancer's purpose: yes, no or not shown, with the difference to `Sum`."""
    content = record()
    cells = []
    for problem in content["claims"][name]:
        if problem == "pareto":
            row, plain = (content["pareto"]["methods"][key] for key in (name, "Sum"))
            count = f"{row['reached']} of {len(row['distances'])} starts (`Sum` {plain['reached']})"
            cells.append(f"Pareto optimum: {verdict(row['distance'])}, {count}")
            continue
        title, effect = EFFECTS[problem]
        for variant, row in of_method(content["results"][problem]["methods"], name).items():
            options = "" if variant == name else f" with `{variant.removeprefix(name)[1:-1]}`"
            if "rate" not in variant and "coop" not in variant:
                cells.append(f"{title}{options}: {verdict(row[effect])}, {signed(row[effect])}")
    return "<br>".join(cells) or "for comparison"


def verdict(difference: dict[str, float]) -> str:
    """Return whether an error, or a distance, is below that of `Sum` by more than chance."""
    if abs(difference["mean"]) <= difference["half"]:
        return "not shown"
    return "**yes**" if difference["mean"] < 0 else "**no**"
