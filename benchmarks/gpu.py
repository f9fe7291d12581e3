"""Speed on one GPU, in one command: python -m benchmarks.gpu [--json FILE]

MMOE with 8 experts [512, 256] and embeddings of width 128 on AliExpress-shaped rows (16 categorical and 63 numeric
columns, 2 tasks), Adam. Measured are the products of matrices that the device reaches, the step of every balancer over
that of `Sum`, the step recorded as a graph beside the same step launched operation by operation, the step with 4
million rows in the tables, and whole epochs over rows that lie on the device. Contenders take turns within a table;
medians are quoted, and ratios are medians of the ratios within a repetition. The file is written table by table.

Smaller numbers and `--device cpu` show that the command works; its figures say something on a GPU alone.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

import recmtl
from benchmarks.generated import ALL_LARGE, SMALL, TWO_LARGE, batches, generated, with_vocabularies
from recmtl.data import Batch, Rows
from recmtl.features import FeatureEncoder
from recmtl.recipe.classes import known_names
from recmtl.recipe.environment import environment
from recmtl.schema import FittedSchema
from recmtl.train import Step
from recmtl.train.device import use_tf32
from recmtl.train.options import Precision

PLAIN = "Sum"
EXPERTS, LAYERS = 8, (512, 256)
GENERATED = 40_000  # rows, at least
Work = Callable[[], object]


@dataclass(frozen=True)
class Bench:
    """What is measured, where, and with how many rows.

    Args:
        device: Where it runs.
        data: Generated rows.
        rows: How many of them, repeated, make an epoch.
        small: A batch of the usual size.
        large: A batch that fills a large device.
        width: Of the embeddings.
        rounds: Repetitions of a step.
    """

    device: str
    data: recmtl.PreparedData
    rows: int
    small: int
    large: int
    width: int
    rounds: int

    @property
    def precisions(self) -> list[Precision]:
        return ["fp32", "bf16"] if self.device == "cpu" else ["fp32", "tf32", "bf16"]

    def model(self, schema: FittedSchema) -> recmtl.MMOE:
        torch.manual_seed(0)
        return recmtl.MMOE(schema, EXPERTS, LAYERS, encoder=partial(FeatureEncoder, width=self.width))

    def trainer(self, schema: FittedSchema, options: recmtl.Optimization, balancer: str = PLAIN) -> recmtl.Trainer:
        run = recmtl.RunConfig(device=self.device, progress=False)
        return recmtl.Trainer(self.model(schema), getattr(recmtl, balancer)(), 1, 0, options, run=run)

    def step(
        self, sizes: list[int], batch: int, precision: Precision, balancer: str = PLAIN, recorded: bool | None = None
    ) -> Work:
        """One step on batches that lie on the device."""
        schema = with_vocabularies(self.data.schema, sizes)
        asked = None if self.device == "cpu" else recorded
        options = recmtl.Optimization(batch_size=batch, precision=precision, cuda_graph=asked)
        trainer = self.trainer(schema, options, balancer)
        step = Step(trainer.model, trainer.balancer, options, 1)
        ready = itertools.cycle([moved(b, self.device) for b in batches(self.data, schema, 4, batch)])
        return lambda: step(next(ready))

    def epoch(self, batch: int, precision: Precision, balancer: str) -> float:
        """Seconds of one epoch's steps over rows that lie on the device."""
        table = self.data.train.table
        whole = pa.concat_tables([table] * -(-self.rows // len(table))).slice(0, self.rows)
        options = recmtl.Optimization(batch_size=batch, precision=precision)
        trainer = self.trainer(self.data.schema, options, balancer)
        trainer.fit(Rows(self.data.schema, whole))
        return self.rows / trainer.result.rows_per_second

    def seconds(self, work: Work) -> float:
        synchronize(self.device)
        start = time.perf_counter()
        work()
        synchronize(self.device)
        return time.perf_counter() - start

    def by_turns(self, contenders: Mapping[str, Work], warm_up: int = 6) -> dict[str, list[float]]:
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(self.rounds + warm_up):
            for name, work in contenders.items():
                taken = self.seconds(work)
                if number >= warm_up:
                    seconds[name].append(taken)
        return seconds


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def moved(batch: Batch, device: str) -> Batch:
    return Batch(batch.ids.to(device), batch.numeric.to(device), batch.labels.to(device))


def products(bench: Bench) -> dict[str, Any]:
    """Tera operations per second of square products, the most that a step could reach."""
    size = 8192 if bench.device != "cpu" else 256
    results: dict[str, Any] = {}
    for precision in bench.precisions:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        a, b = (torch.randn(size, size, device=bench.device, dtype=dtype) for _ in range(2))

        def work(a: torch.Tensor = a, b: torch.Tensor = b, precision: str = precision) -> None:
            if precision == "tf32":
                with use_tf32():
                    a @ b
            else:
                a @ b

        taken = statistics.median(bench.by_turns({precision: work})[precision])
        results[precision] = {"teraflops": 2 * size**3 / taken / 1e12}
    return results


def arithmetic(bench: Bench, batch: int) -> float:
    """Operations of the products in a step of `Sum`: three times those of a forward pass."""
    schema = with_vocabularies(bench.data.schema, SMALL)
    (given,) = batches(bench.data, schema, 1, 64)
    with FlopCounterMode(display=False) as counter:
        bench.model(schema)(given)
    return float(3 * counter.get_total_flops() * batch / 64)


def compared(bench: Bench, contenders: Mapping[str, Work], plain: str) -> dict[str, Any]:
    """Milliseconds of each, and how many times those of the plain one."""
    seconds = bench.by_turns(contenders)
    return {
        name: {
            "milliseconds": 1000 * statistics.median(taken),
            "ratio": statistics.median(t / p for t, p in zip(taken, seconds[plain], strict=True)),
        }
        for name, taken in seconds.items()
    }


def balanced(bench: Bench, batch: int, precision: Precision) -> dict[str, Any]:
    names = (PLAIN, *(name for name in known_names("balancer") if name != PLAIN))
    return compared(bench, {name: bench.step(SMALL, batch, precision, name) for name in names}, PLAIN)


def of_the_rate(bench: Bench, rates: Mapping[str, Any]) -> dict[str, Any]:
    """How much of the device's rate the step of `Sum` reaches with large batches."""
    work: dict[str, Work] = {p: bench.step(SMALL, bench.large, p) for p in bench.precisions}
    operations = arithmetic(bench, bench.large)
    results = {}
    for precision, taken in bench.by_turns(work).items():
        reached = operations / statistics.median(taken) / 1e12
        share = reached / rates[precision]["teraflops"]
        results[precision] = {"milliseconds": 1000 * statistics.median(taken), "teraflops": reached, "share": share}
    return results


def recorded(bench: Bench) -> dict[str, Any]:
    work = {
        f"{name}, {how}": bench.step(SMALL, bench.small, "bf16", name, flag)
        for name in (PLAIN, "PCGrad", "RotoGrad")
        for how, flag in (("launched", False), ("recorded", True))
    }
    return compared(bench, work, f"{PLAIN}, launched")


def vocabularies(bench: Bench, batch: int) -> dict[str, Any]:
    sizes = {"200 rows": SMALL, "4 M in two columns": TWO_LARGE, "4 M in all columns": ALL_LARGE}
    return compared(bench, {name: bench.step(s, batch, "bf16") for name, s in sizes.items()}, "200 rows")


def epochs(bench: Bench) -> dict[str, Any]:
    results = {}
    for batch, balancer in ((bench.large, PLAIN), (bench.small, PLAIN), (bench.small, "PCGrad")):
        taken = bench.epoch(batch, "bf16", balancer)
        results[f"{balancer}, batch {batch:,}"] = {"seconds": taken, "rows_per_second": bench.rows / taken}
    return results


def show(title: str, results: Mapping[str, Mapping[str, float]]) -> None:
    columns = list(next(iter(results.values())))
    table = Table(title, *columns)
    for name, values in results.items():
        table.add_row(name, *(f"{values[column]:,.3f}" for column in columns))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=12_100_000)
    parser.add_argument("--batches", type=int, nargs=2, default=(2048, 65_536), metavar=("SMALL", "LARGE"))
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    small, large = arguments.batches
    data = generated(large if arguments.device == "cpu" else max(large, GENERATED))
    bench = Bench(arguments.device, data, arguments.rows, small, large, arguments.width, arguments.rounds)
    machine = [*environment(), torch.cuda.get_device_name() if bench.device != "cpu" else "no GPU"]
    results: dict[str, Any] = {}
    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "products": lambda: products(bench),
        f"step of {PLAIN}, batch {bench.large:,}": lambda: of_the_rate(bench, results["products"]),
        f"balancers, bf16, batch {bench.large:,}": lambda: balanced(bench, bench.large, "bf16"),
        f"recorded, bf16, batch {bench.small:,}": lambda: recorded(bench),
        f"balancers, bf16, batch {bench.small:,}": lambda: balanced(bench, bench.small, "bf16"),
        f"vocabularies, bf16, batch {bench.small:,}": lambda: vocabularies(bench, bench.small),
        f"vocabularies, bf16, batch {bench.large:,}": lambda: vocabularies(bench, bench.large),
        f"one epoch of {bench.rows:,} rows, bf16": lambda: epochs(bench),
    }
    for title, section in sections.items():
        results[title] = section()
        gc.collect()  # models, and what their recorded steps compute in
        show(title, results[title])
        if arguments.json:
            content = {"command": "python -m benchmarks.gpu", "machine": machine, "results": results}
            arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
