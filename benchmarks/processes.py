"""Steps of several processes on one machine: python -m benchmarks.processes [--json FILE]

MMOE on AliExpress-shaped rows, batch 2,048 in all, shared among so many processes of one thread each that talk by
gloo; before them one process alone, with one thread and with as many as there are processes. Medians over the rounds: a
step's milliseconds, those of them that go into messages (waiting for the slower process counted), and the bytes that
each process gives. Tables of 4 million rows, 2 million in each of two columns, are in row mode.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

import recmtl
from benchmarks.generated import BATCH, ENCODER, SMALL, TWO_LARGE, batches, generated, with_vocabularies
from recmtl.balance import ProcessGroup
from recmtl.recipe.environment import environment
from recmtl.train import Step

METHODS = ("Sum", "GradNorm", "MetaBalance", "PCGrad", "NormalizedSplitter", "RotoGrad")
TABLES = {"200 rows": SMALL, "4 M rows": TWO_LARGE}


class TimedProcessGroup(ProcessGroup):
    """Counts the seconds of its messages."""

    seconds = 0.0

    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        """Adds up, and looks at the clock."""
        start = time.perf_counter()
        super().all_reduce(tensors)
        self.seconds += time.perf_counter() - start

    def all_gather(self, tensor: Tensor) -> list[Tensor]:
        """Learns the tensors of the others, and looks at the clock."""
        start = time.perf_counter()
        found = super().all_gather(tensor)
        self.seconds += time.perf_counter() - start
        return found


def measure(processes: TimedProcessGroup, method: str, sizes: list[int], rows: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a step and of its messages, and the bytes that this process gives."""
    data = generated(rows)
    schema = with_vocabularies(data.schema, sizes)
    torch.manual_seed(0)
    trainer = recmtl.Trainer(
        recmtl.MMOE(schema, encoder=ENCODER), getattr(recmtl, method)(), run=recmtl.RunConfig(device="cpu")
    )
    trainer.balancer.processes = processes
    step = Step(trainer.model, trainer.balancer, recmtl.Optimization(batch_size=BATCH), 1)
    found: list[tuple[float, float, float]] = []
    for batch in batches(data, schema, rounds + 2):
        part = batch.part(processes)
        before, sent, start = processes.seconds, processes.sent, time.perf_counter()
        step(part)
        found.append((time.perf_counter() - start, processes.seconds - before, processes.sent - sent))
    seconds, messages, sent_bytes = (statistics.median(column) for column in zip(*found[2:], strict=True))
    return {"milliseconds": 1000 * seconds, "messages": 1000 * messages, "bytes": sent_bytes}


def work(rank: int, number: int, threads: int, folder: str, rows: int, rounds: int) -> None:
    """Measure every method in one of so many processes; the first one writes it down."""
    torch.set_num_threads(threads)
    if number > 1:
        dist.init_process_group("gloo", f"file://{folder}/address", timedelta(minutes=5), number, rank)
    processes = TimedProcessGroup(dist.group.WORLD if number > 1 else None)
    found = {
        f"{method}, {title}": measure(processes, method, sizes, rows, rounds)
        for title, sizes in TABLES.items()
        for method in METHODS
    }
    if rank == 0:
        Path(folder, "found.json").write_text(json.dumps(found))
    if number > 1:
        dist.destroy_process_group()


def launch(number: int, threads: int, rows: int, rounds: int) -> dict[str, dict[str, float]]:
    """Let so many processes measure."""
    with tempfile.TemporaryDirectory() as folder:
        start_processes(work, (number, threads, folder, rows, rounds), nprocs=number)  # type: ignore[no-untyped-call]
        found: dict[str, dict[str, float]] = json.loads(Path(folder, "found.json").read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[2])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    kinds = [(1, 1), *itertools.chain(*(((1, n), (n, 1)) for n in arguments.processes))]
    results: dict[str, Any] = {}
    for number, threads in kinds:
        title = f"{number} process{'es' * (number > 1)}, {threads} thread{'s' * (threads > 1)} each"
        results[title] = launch(number, threads, arguments.rows, arguments.rounds)
        table = Table(title, "ms", "messages, ms", "MB given")
        for name, found in results[title].items():
            table.add_row(
                name, f"{found['milliseconds']:.1f}", f"{found['messages']:.1f}", f"{found['bytes'] / 1e6:.3f}"
            )
        Console().print(table)
    if arguments.json:
        content = {"command": "python -m benchmarks.processes", "machine": environment(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
