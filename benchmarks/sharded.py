"""Tables that are spread over processes: python -m benchmarks.sharded [--part PART] [--json FILE]

Each part can be measured by itself; its results replace those of the same part in the file. The engines are tables that
each process holds whole, tables spread over the processes, and, where TorchRec is installed, tables spread by it.

1. Steps of MMOE on AliExpress-shaped rows with 16 tables of 200,000 rows, in so many processes of one thread that talk
   by gloo: CPU milliseconds of a step (all threads of a process) and bytes sent, with each engine, in turns in the same
   processes.
2. A training whose tables and their optimizer's state exceed the memory limit of a process (RLIMIT_DATA): it is refused
   in one process, and trains in two with the same limit each.
3. Whether several processes train as one does in float64, with every balancer: see `sharded_equality`.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch.multiprocessing.spawn import start_processes

import recmtl
from benchmarks.generated import BATCH, COLUMNS, ENCODER, batches, generated, with_vocabularies
from benchmarks.sharded_equality import ENGINES, INSTALLED, equality
from benchmarks.sharded_equality import METHODS as BALANCERS
from recmtl.balance.distributed import all_processes
from recmtl.features.embedding_table import spread_tables
from recmtl.io.machine import explain_oom, peak_memory
from recmtl.recipe.environment import environment
from recmtl.train import Step

METHODS = ("Sum", "PCGrad", "MetaBalance")
LARGE = [200_000] * COLUMNS
PARTS = ("steps", "memory", "equality")
TURN = 5  # steps with one engine, before those with another
MEGABYTE = 1 << 20


def step_of(data: recmtl.PreparedData, method: str, engine: str) -> tuple[Step, recmtl.FittedSchema]:
    """A step with tables that are whole in each process, or spread over the processes."""
    schema = with_vocabularies(data.schema, LARGE)
    torch.manual_seed(0)
    run = recmtl.RunConfig(device="cpu")
    model = recmtl.MMOE(schema, encoder=ENCODER)
    trainer = recmtl.Trainer(model, getattr(recmtl, method)(), run=run, shard_tables=ENGINES[engine])
    return Step(model, trainer.balancer, recmtl.Optimization(batch_size=BATCH), 1), schema


def measure(data: recmtl.PreparedData, method: str, engines: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Median CPU milliseconds of a step and bytes sent, with each engine."""
    processes = all_processes()
    steps = {engine: step_of(data, method, engine) for engine in engines}
    found: dict[str, list[tuple[float, float, float]]] = {engine: [] for engine in steps}
    drawn = batches(data, steps[engines[0]][1], rounds + TURN)
    for start in range(0, len(drawn), TURN):
        for engine, (step, _) in steps.items():
            counted = step._balancer.processes
            for batch in drawn[start : start + TURN]:
                part = batch.part(processes)
                cpu, wall, sent = time.process_time(), time.perf_counter(), counted.sent
                step(part)
                spent = time.process_time() - cpu, time.perf_counter() - wall, counted.sent - sent
                found[engine] += [spent] * (start > 0)
    names = ("cpu_milliseconds", "milliseconds", "bytes")
    scales = (1e3, 1e3, 1.0)
    return {
        engine: {n: c * statistics.median(v) for n, c, v in zip(names, scales, zip(*rows, strict=True), strict=True)}
        for engine, rows in found.items()
    }


def time_steps(rank: int, number: int, folder: str, engines: list[str], rounds: int) -> None:
    """Measure all methods in one of so many processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/address", timedelta(minutes=5), number, rank)
    data = generated(20_000)
    found = {method: measure(data, method, engines, rounds) for method in METHODS}
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def train_within(rank: int, number: int, folder: str, rows: int, megabytes: int) -> None:
    """Train one epoch within so many megabytes more than a process has after its imports."""
    torch.set_num_threads(1)
    if number > 1:
        dist.init_process_group("gloo", f"file://{folder}/address", timedelta(minutes=5), number, rank)
    data = generated(8_000)
    schema = with_vocabularies(data.schema, [rows // COLUMNS] * COLUMNS)
    held = int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line).split()[1])
    limit = held * 1024 + megabytes * MEGABYTE
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    found: dict[str, Any] = {}
    try:
        with explain_oom("the training"):
            with recmtl.sharded_tables():
                model = recmtl.MMOE(schema, encoder=ENCODER)
            run = recmtl.RunConfig(device="cpu", progress=False)
            options = recmtl.Optimization(batch_size=BATCH)
            trainer = recmtl.Trainer(model, recmtl.PCGrad(), 1, run=run, optimization=options)
            step = Step(model, trainer.balancer, options, 1)
            for batch in batches(data, schema, 5):
                step(batch.part(all_processes()))
            found["rows of this process"] = sum(len(table.weight) for table in spread_tables(model).values()) or rows
    except recmtl.OutOfMemoryError as error:
        found["refused"] = str(error)
    Path(folder, f"{rank}.json").write_text(json.dumps(found | {"peak_megabytes": peak_memory() / MEGABYTE}))
    if number > 1:
        dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--rows", type=int, default=4_000_000, help="of the table of the second part, 16 numbers each")
    parser.add_argument("--megabytes", type=int, default=600, help="that a process may take for it")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=INSTALLED, help="of steps and equality")
    parser.add_argument("--part", choices=PARTS, help="only one of the parts")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    before = json.loads(arguments.json.read_text()) if arguments.json and arguments.json.is_file() else {}
    results: dict[str, Any] = before.get("results", {})
    parts = (arguments.part,) if arguments.part else PARTS
    if "steps" in parts:
        results["steps"] = steps_in(arguments.processes, arguments.engines, arguments.rounds)
    if "equality" in parts:
        found = equality([method.__name__ for method in BALANCERS], arguments.engines)
        results["equality"] = results.get("equality", {}) | found
    if "memory" in parts:
        results["memory"] = {n: memory_in(n, arguments.rows, arguments.megabytes) for n in (1, 2)}
        for number, ranks in results["memory"].items():
            Console().print(f"{number} process{'es' * (number > 1)}, {arguments.megabytes} MB each:", *ranks)
    if arguments.json:
        content = {"command": "python -m benchmarks.sharded", "machine": environment(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def steps_in(number: int, engines: list[str], rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Time steps in so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(time_steps, (number, folder, engines, rounds), nprocs=number)  # type: ignore[no-untyped-call]
        found: dict[str, dict[str, dict[str, float]]] = json.loads(Path(folder, "found.json").read_text())
    columns = [f"{engine}, {unit}" for unit in ("CPU ms", "ratio", "MB sent") for engine in engines]
    table = Table(f"{number} processes", *columns)
    for method, measured in found.items():
        cpu, sent = ([measured[e][what] for e in engines] for what in ("cpu_milliseconds", "bytes"))
        numbers = (*(f"{c:.1f}" for c in cpu), *(f"{c / cpu[0]:.2f}" for c in cpu), *(f"{b / 1e6:.2f}" for b in sent))
        table.add_row(method, *numbers)
    Console().print(table)
    return found


def memory_in(number: int, rows: int, megabytes: int) -> list[dict[str, Any]]:
    """Train in so many processes with a memory limit."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(train_within, (number, folder, rows, megabytes), nprocs=number)  # type: ignore[no-untyped-call]
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(number)]


if __name__ == "__main__":
    main()
