"""Steps of several processes against those of one: the part `equality` of `benchmarks.sharded`.

MMOE with a table of 64,000 rows of width 16 takes a few steps in float64 with every balancer, by one process and by
2, 3 and 4: with the table whole in each of them, spread over them, and spread by TorchRec. What is recorded is the
largest relative difference of a parameter, a state of the balancer or the table, ‖found − expected‖ / ‖expected‖.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
from dataclasses import replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

import recmtl
from benchmarks.generated import COLUMNS, ENCODER, batches, generated, with_vocabularies
from recmtl import balance
from recmtl.balance import Balancer
from recmtl.balance.distributed import all_processes
from recmtl.features.embedding_table import spread_tables
from recmtl.train import Step
from recmtl.train.options import ShardTables

EXPORTS = [getattr(balance, name) for name in balance.__all__]
METHODS = [c for c in EXPORTS if inspect.isclass(c) and issubclass(c, Balancer) and not inspect.isabstract(c)]
ENGINES: dict[str, ShardTables] = {"whole": False, "spread": True, "torchrec": "torchrec"}
INSTALLED = [engine for engine in ENGINES if engine != "torchrec" or find_spec("torchrec")]
PROCESSES = (2, 3, 4)
STEPS, ROWS = 5, 120
SIZES = [4_000] * COLUMNS  # of more than a million elements in all, which are spread and trained by rows
OPTIONS = recmtl.Optimization(
    batch_size=ROWS, optimizer=functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9), clip_norm=1.0
)
State = dict[str, Tensor]


def trained(data: recmtl.PreparedData, method: type[Balancer], engine: str) -> State:
    """Return the floating-point state of a model after some steps, whole tables by id."""
    processes, schema = all_processes(), with_vocabularies(data.schema, SIZES)
    torch.manual_seed(0)
    model = recmtl.MMOE(schema, layers=[16, 8], tower_layers=[8], encoder=ENCODER)
    run = recmtl.RunConfig(device="cpu", progress=False)
    trainer = recmtl.Trainer(model, method(), run=run, optimization=OPTIONS, shard_tables=ENGINES[engine])
    model.double()  # with the state of the balancer
    step = Step(model, trainer.balancer, OPTIONS, STEPS)
    for batch in batches(data, schema, STEPS, ROWS):
        step(replace(batch, numeric=batch.numeric.double()).part(processes))
    found = {name: value for name, value in model.state_dict().items() if value.is_floating_point()}
    for name, table in spread_tables(model).items():
        by_place = torch.cat(processes.all_gather(table.weight.detach()))
        found[f"{name}.weight"] = torch.empty_like(by_place).index_copy_(0, table.ids_at(0, table.rows), by_place)
    return found


def difference(found: State, expected: State) -> float:
    """Return the largest relative difference of a tensor."""
    assert found.keys() == expected.keys()
    norms = {name: (found[name] - value).norm().item() for name, value in expected.items()}
    return max(norm / expected[name].norm().item() if norm else 0.0 for name, norm in norms.items())


def compare(rank: int, number: int, folder: str, names: list[str], engines: list[str]) -> None:
    """Write what the first of so many processes finds, against what one has written."""
    torch.set_num_threads(1)
    if number > 1:
        dist.init_process_group("gloo", f"file://{folder}/address {number}", timedelta(minutes=30), number, rank)
    data = generated(2_000)
    found: dict[str, dict[str, float]] = {}
    for method in (method for method in METHODS if method.__name__ in names):
        one = Path(folder, f"{method.__name__}.pt")
        if number == 1:
            torch.save(trained(data, method, "whole"), one)
            continue
        states = {engine: trained(data, method, engine) for engine in engines}
        if rank == 0:
            expected = torch.load(one)
            found[method.__name__] = {engine: difference(state, expected) for engine, state in states.items()}
    if rank == 0:
        torch.save(found, Path(folder, f"{number}.pt"))
    if number > 1:
        dist.destroy_process_group()


def equality(
    names: list[str], engines: list[str], processes: tuple[int, ...] = PROCESSES
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the largest relative differences by engine, balancer and number of processes, and print them."""
    found: dict[str, dict[str, dict[str, float]]] = {engine: {name: {} for name in names} for engine in engines}
    with tempfile.TemporaryDirectory() as folder:
        for number in (1, *processes):
            start_processes(compare, (number, folder, names, engines), nprocs=number)  # type: ignore[no-untyped-call]
            for name, of_engines in torch.load(Path(folder, f"{number}.pt")).items():
                for engine, value in of_engines.items():
                    found[engine][name][str(number)] = value
    table = Table("balancer", *(f"{engine}, {number}" for engine in engines for number in processes))
    for name in names:
        table.add_row(name, *(f"{value:.0e}" for engine in engines for value in found[engine][name].values()))
    Console().print(table)
    return found
