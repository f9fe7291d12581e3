"""The cost of a balanced step over a plain one: python -m benchmarks.balancers [--json FILE]

Every balancer trains the same models on the same batches (AliExpress-shaped, batch 2,048), one step each in turn, with
2, 4 and 8 tasks, in fp32 and bf16; medians over the rounds, and the ratio to `Sum` round by round. A method that takes
each task's gradient runs K backward passes instead of one: (1 + 2K)/3 times the arithmetic where all layers are shared.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import recmtl
from benchmarks.generated import BATCH, generated
from recmtl.data import Loader
from recmtl.recipe.classes import known_names
from recmtl.recipe.environment import environment
from recmtl.schema import FittedSchema
from recmtl.train import Step
from recmtl.train.options import Precision

PLAIN = "Sum"
MODELS: list[type[recmtl.SharedBottom | recmtl.MMOE]] = [recmtl.SharedBottom, recmtl.MMOE]


def with_tasks(schema: FittedSchema, count: int) -> FittedSchema:
    """The same schema with so many tasks, of clicks and conversions in turn."""
    tasks = tuple(recmtl.Task(f"task_{k}", label=("click", "conversion")[k % 2]) for k in range(count))
    return replace(schema, schema=replace(schema.schema, tasks=tasks, funnel=None))


def steps(
    model: type[recmtl.SharedBottom | recmtl.MMOE], schema: FittedSchema, precision: Precision
) -> dict[str, Step]:
    """One step per balancer, each with a model of its own that starts from the same weights."""
    made = {}
    options = recmtl.Optimization(batch_size=BATCH, precision=precision)
    for name in (PLAIN, *(name for name in known_names("balancer") if name != PLAIN)):
        torch.manual_seed(0)
        trainer = recmtl.Trainer(model(schema), getattr(recmtl, name)(), run=recmtl.RunConfig(device="cpu"))
        made[name] = Step(trainer.model, trainer.balancer, options, 1)
    return made


def measure(made: dict[str, Step], data: recmtl.PreparedData, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, by balancer, after two rounds to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in made}
    batches = itertools.cycle(list(Loader(data.train, BATCH, seed=0).epoch())[:-1])
    for number in range(rounds + 2):
        batch = next(batches)
        for name, step in made.items():
            start = time.perf_counter()
            step(batch)
            if number > 1:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Print milliseconds and the ratio to the plain step."""
    table = Table(title, "ms", f"over {PLAIN}")
    results = {}
    for name, times in seconds.items():
        ratio = statistics.median(t / plain for t, plain in zip(times, seconds[PLAIN], strict=True))
        milliseconds = 1000 * statistics.median(times)
        table.add_row(name, f"{milliseconds:.1f}", f"{ratio:.2f}")
        results[name] = {"milliseconds": milliseconds, "ratio": ratio}
    Console().print(table)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = generated(rows=40_000)
    precisions: list[Precision] = ["fp32", "bf16"]
    results = {}
    for tasks, precision, model in itertools.product(arguments.tasks, precisions, MODELS):
        title = f"{model.__name__}, {tasks} tasks, {precision}"
        made = steps(model, with_tasks(data.schema, tasks), precision)
        results[title] = report(title, measure(made, data, arguments.rounds))
    if arguments.json:
        content = {"command": "python -m benchmarks.balancers", "machine": environment(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
