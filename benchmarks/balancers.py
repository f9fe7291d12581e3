"""The cost of a balanced step over a plain one: python -m benchmarks.balancers [--json FILE]

Every balancer trains the same models on the same batches (AliExpress-shaped, 2 tasks, batch 2,048), one step each in
turn; medians over the rounds, and the ratio to `Sum` round by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import recmtl
from benchmarks.peers import BATCH, generated
from recmtl.data import Loader
from recmtl.recipe import environment, known_names
from recmtl.train import Step

PLAIN = "Sum"


def steps(model: type[recmtl.SharedBottom | recmtl.MMOE], data: recmtl.PreparedData) -> dict[str, Step]:
    """One step per balancer, each with a model of its own that starts from the same weights."""
    made = {}
    for name in (PLAIN, *(name for name in known_names("balancer") if name != PLAIN)):
        torch.manual_seed(0)
        trainer = recmtl.Trainer(model(data.schema), getattr(recmtl, name)(), run=recmtl.Run(device="cpu"))
        made[name] = Step(trainer.model, trainer.balancer, recmtl.Optimization(batch_size=BATCH), 1)
    return made


def measure(
    model: type[recmtl.SharedBottom | recmtl.MMOE], data: recmtl.PreparedData, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each step, by balancer, after two rounds to warm up."""
    made = steps(model, data)
    seconds: dict[str, list[float]] = {name: [] for name in made}
    batches = list(Loader(data.train, BATCH, seed=0).epoch())
    for number in range(rounds + 2):
        for name, step in made.items():
            start = time.perf_counter()
            step(batches[number % len(batches)])
            if number > 1:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    data = generated(rows=40_000)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for model in (recmtl.SharedBottom, recmtl.MMOE):
        table = Table(f"{model.__name__}, one step", "ms", f"over {PLAIN}")
        seconds = measure(model, data, arguments.rounds)
        results[model.__name__] = {}
        for name, times in seconds.items():
            ratio = statistics.median(t / plain for t, plain in zip(times, seconds[PLAIN], strict=True))
            milliseconds = 1000 * statistics.median(times)
            table.add_row(name, f"{milliseconds:.1f}", f"{ratio:.2f}")
            results[model.__name__][name] = {"milliseconds": milliseconds, "ratio": ratio}
        Console().print(table)
    if arguments.json:
        content = {"command": "python -m benchmarks.balancers", "machine": environment(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
