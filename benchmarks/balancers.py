"""The cost of a balanced step over a plain one: python -m benchmarks.balancers [--json FILE] [--layers 512 256]

Each balancer and `Sum` train the same model on the same batches (AliExpress-shaped, batch 2,048), one step each in
turn, with 2, 8 and 32 tasks, in fp32 and bf16; medians over the rounds, and the ratio to `Sum` round by round. No more
than two models are trained in turn, as those of all methods together would find the caches cold. A method that takes
each task's gradient runs K backward passes instead of one: (1 + 2K)/3 times the arithmetic where all layers are shared.
At last the step of each balancer on MMOE with 4 million rows in the tables of two columns, beside the one with 200.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import recmtl
from benchmarks.generated import BATCH, SMALL, TWO_LARGE, batches, generated, with_vocabularies
from recmtl.data import Batch, Loader
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


def step_of(
    name: str,
    model: type[recmtl.SharedBottom | recmtl.MMOE],
    layers: Sequence[int],
    schema: FittedSchema,
    precision: Precision,
) -> Step:
    """A step with a balancer, whose model starts from the same weights whatever the balancer."""
    torch.manual_seed(0)
    options = recmtl.Optimization(batch_size=BATCH, precision=precision)
    trainer = recmtl.Trainer(model(schema, layers=layers), getattr(recmtl, name)(), run=recmtl.RunConfig(device="cpu"))
    return Step(trainer.model, trainer.balancer, options, 1)


def measure(
    first: Step, second: Step, batches: Iterable[tuple[Batch, Batch]], rounds: int
) -> list[tuple[float, float]]:
    """Seconds of two steps by round, each on its own batch, after two rounds to warm up."""
    seconds = []
    for own, other in itertools.islice(itertools.cycle(batches), rounds + 2):
        start = time.perf_counter()
        first(own)
        between = time.perf_counter()
        second(other)
        seconds.append((between - start, time.perf_counter() - between))
    return seconds[2:]


def large_tables(
    names: Sequence[str], layers: Sequence[int], data: recmtl.PreparedData, rounds: int
) -> dict[str, dict[str, float]]:
    """The steps per second of each balancer with 4 million rows in two tables, over those with 200 rows."""
    schemas = [with_vocabularies(data.schema, sizes) for sizes in (SMALL, TWO_LARGE)]
    pairs = list(zip(*(batches(data, schema, 20) for schema in schemas), strict=True))
    seconds = {}
    for name in names:
        small, large = (step_of(name, recmtl.MMOE, layers, schema, "fp32") for schema in schemas)
        seconds[name] = measure(small, large, pairs, rounds)
    return report("MMOE, 4 M rows in two tables", "steps/s over 200 rows", seconds, speed=True)


def report(
    title: str, over: str, seconds: dict[str, list[tuple[float, float]]], speed: bool = False
) -> dict[str, dict[str, float]]:
    """Print the milliseconds of the second step, and the ratio of its time, or of its speed, to that of the first."""
    table = Table(title, "ms", over)
    results = {}
    for name, rounds in seconds.items():
        ratio = statistics.median(first / second if speed else second / first for first, second in rounds)
        milliseconds = 1000 * statistics.median(second for _, second in rounds)
        table.add_row(name, f"{milliseconds:.1f}", f"{ratio:.2f}")
        results[name] = {"milliseconds": milliseconds, "ratio": ratio}
    Console().print(table)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tasks", type=int, nargs="+", default=[2, 8, 32])
    parser.add_argument("--layers", type=int, nargs="+", default=[256, 128], help="the shared layers")
    parser.add_argument("--only", nargs="+", default=known_names("balancer"), help="balancers")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = generated(rows=40_000)
    full = list(Loader(data.train, BATCH, seed=0).epoch())[:-1]
    precisions: list[Precision] = ["fp32", "bf16"]
    results = {}
    for tasks, precision, model in itertools.product(arguments.tasks, precisions, MODELS):
        made = partial(step_of, model=model, layers=arguments.layers, precision=precision)
        schema, title = with_tasks(data.schema, tasks), f"{model.__name__}, {tasks} tasks, {precision}"
        plain = made(PLAIN, schema=schema)
        pairs = [(batch, batch) for batch in full]
        seconds = {name: measure(plain, made(name, schema=schema), pairs, arguments.rounds) for name in arguments.only}
        results[title] = report(title, f"over {PLAIN}", seconds)
    tables = large_tables(arguments.only, arguments.layers, data, arguments.rounds)
    if arguments.json:
        layers = " ".join(map(str, arguments.layers))
        content = {
            "command": f"python -m benchmarks.balancers --layers {layers} --rounds {arguments.rounds}",
            "machine": environment(),
            "results": results,
            "large_tables": tables,
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
