"""What a training of given sizes asks of each process: memory, messages and time, worked out from formulas.

Symbols: N processes share batches of B rows, b = ⌈B/N⌉ of them each. A row has c id columns; all tables together have
R rows of width w. K losses are balanced in `passes` backward passes, P numbers are trained beside the tables.
All bytes are those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

NUMBER, INDEX = 4, 4  # bytes of a float32, and of an id, int32
MOST_IDS = (1 << 31) - 1  # rows of a table that an int32 id can address
# Numbers that an optimizer keeps for each weight, by its class; one for a whole row is 1/w.
KEPT: Mapping[str, float] = {"Adam": 2, "AdamW": 2, "Adagrad": 1, "SGD": 0}
BY_ROW = "RowWiseAdagrad"


@dataclass(frozen=True)
class Machine:
    """What a process has; the defaults are an A100 with 80 GB in a machine of eight with HDR InfiniBand.

    NVIDIA's data sheet (2021): 80 GB at 2,039 GB/s, 19.5 TFLOP/s in fp32, of which we take half. A link of 200 Gb/s per
    GPU carries 25 GB/s. An NVMe drive of 8 GB/s is shared by eight processes.

    Args:
        memory: Of the device, in bytes.
        bandwidth: Of this memory, in bytes per second.
        operations: Per second, as layers reach them.
        network: Bytes per second that a process can send.
        disk: Bytes of training rows per second that a process can read.

    Raises:
        ValueError: One of them is not above 0.
    """

    memory: float = 80e9
    bandwidth: float = 2000e9
    operations: float = 10e12
    network: float = 25e9
    disk: float = 1e9

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"`{name}` must be above 0, got {value:g}")


@dataclass(frozen=True)
class Workload:
    """The sizes of a training.

    Args:
        rows: Training rows.
        ids: Rows of all embedding tables together, R.
        width: Of the tables, w.
        columns: Id columns of a row, c.
        numbers: Numeric columns of a row.
        tasks: Losses, K.
        parameters: Trained numbers beside the tables, P.
        processes: N.
        batch_size: Rows of the whole batch, B.
        passes: Backward passes of a step: 1, or K where tasks' gradients are balanced.
        kept: Numbers that the optimizer keeps for each weight of a table.

    Raises:
        ValueError: A size is below 1, or a batch has fewer rows than there are processes.
    """

    rows: int
    ids: int
    width: int = 16
    columns: int = 30
    numbers: int = 0
    tasks: int = 2
    parameters: int = 1_000_000
    processes: int = 1
    batch_size: int = 2048
    passes: int = 1
    kept: float = 2.0

    def __post_init__(self) -> None:
        least = {"rows": 1, "ids": 1, "width": 1, "columns": 1, "numbers": 0, "tasks": 1, "parameters": 1}
        for name, smallest in (least | {"processes": 1, "batch_size": self.processes}).items():
            if getattr(self, name) < smallest:
                raise ValueError(f"`{name}` must be at least {smallest:,}, got {getattr(self, name):,}")

    @property
    def own_rows(self) -> int:
        """The rows of a process in a batch, b; of the largest share."""
        return math.ceil(self.batch_size / self.processes)

    @property
    def row_bytes(self) -> int:
        """The bytes of a row, packed: an int32 for each id column, a float32 for each number and label."""
        return INDEX * self.columns + NUMBER * (self.numbers + self.tasks)

    @property
    def row_numbers(self) -> float:
        """The numbers that a table and its optimizer hold for a row."""
        return self.width * (1 + self.kept)

    def distinct(self, rows: int) -> float:
        """Return how many distinct ids so many rows have, at most on average.

        R·(1 − (1 − 1/R)ⁿ) of n ids drawn evenly; any skew has fewer, as 1 − (1 − p)ⁿ is concave in p.
        """
        return -self.ids * math.expm1(rows * self.columns * math.log1p(-1 / self.ids)) if self.ids > 1 else 1.0


@dataclass(frozen=True)
class Plan:
    """What a training asks of each process, with whole tables in all of them or with their rows spread.

    Args:
        sizes: The sizes.
        sharded: Whether the rows of tables are spread over the processes.

    Example:
        >>> whole = Plan(Workload(rows=10**9, ids=10**9, processes=64, batch_size=131_072))
        >>> spread = Plan(whole.sizes, sharded=True)
        >>> f"{whole.table_bytes / 1e9:.0f} GB, {spread.table_bytes / 1e9:.0f} GB"
        '192 GB, 3 GB'
    """

    sizes: Workload
    sharded: bool = False

    @property
    def table_bytes(self) -> int:
        """Tables and their optimizer: 4·w·(1 + kept) bytes for each row that a process holds, R or ⌈R/N⌉."""
        held = math.ceil(self.sizes.ids / self.sizes.processes) if self.sharded else self.sizes.ids
        return int(NUMBER * self.sizes.row_numbers * held)

    @cached_property
    def read(self) -> float:
        """The distinct rows of tables that a process reads in a step: those of its own part of the batch, or of all."""
        return self.sizes.distinct(self.sizes.own_rows if self.sharded else self.sizes.batch_size)

    @cached_property
    def updated(self) -> float:
        """The distinct rows of tables that a process updates in a step; spread ones are updated by their owners."""
        return self.sizes.distinct(self.sizes.batch_size) / (self.sizes.processes if self.sharded else 1)

    def memory(self) -> dict[str, float]:
        """Return bytes by what they are for.

        The layers hold a weight, a gradient, two numbers of Adam, and a gradient for each pass; so do the rows of a
        step, whose moments are copied. Two batches are held, one of them prefetched, and what was looked up with its
        gradient. Activations of hidden layers are not counted: they depend on the model.
        """
        sizes, gradients = self.sizes, 1 + self.sizes.passes
        rows = self.updated * (sizes.row_numbers + gradients * sizes.width)
        rows += self.read * gradients * sizes.width if self.sharded else 0
        return {
            "tables and optimizer": self.table_bytes,
            "layers and optimizer": NUMBER * sizes.parameters * (3 + gradients),
            "rows of a step": NUMBER * rows,
            "batches": sizes.own_rows * (2 * sizes.row_bytes + 2 * NUMBER * sizes.columns * sizes.width),
        }

    def sent(self) -> dict[str, float]:
        """Return the bytes that a process gives to messages in a step, by what they are for."""
        sizes, of_rows = self.sizes, NUMBER * self.sizes.width * self.sizes.passes
        if sizes.processes == 1:
            return dict.fromkeys(("gradients of layers", "ids", "rows and gradients"), 0.0)
        if self.sharded:
            ids, rows = asked_bytes(self.read, sizes.processes), exchanged_bytes(self.read, sizes.width, sizes.passes)
        else:
            ids, rows = 8 + INDEX * sizes.distinct(sizes.own_rows), of_rows * self.read
        layers = summed_bytes(sizes.tasks, sizes.parameters, sizes.passes)
        return {"gradients of layers": layers, "ids": ids, "rows and gradients": rows}

    def host_memory(self) -> dict[str, float]:
        """Return bytes of the machine's memory: the order of an epoch, and the mapped rows, which processes share."""
        rows = float(self.sizes.rows)
        return {"order of the rows": 8 * rows, "rows, shared by its processes": rows * self.sizes.row_bytes}

    def seconds(self, machine: Machine) -> dict[str, float]:
        """Return the seconds of a step, by what takes them; rows are read while the step before is computed.

        A layer takes 2 operations for a weight and row on the way forward, and 4 in each backward pass. A row of a
        table is read where it is looked up, written back by each pass, and read and written with its moments. A ring
        that adds up sends 2·(N − 1)/N of the bytes, one that gathers N − 1 times its own (Patarasu and Yuan, 2009), and
        an all-to-all (N − 1)/N.
        """
        sizes, sent, others = self.sizes, self.sent(), self.sizes.processes - 1
        summed, ids, of_rows = sent.values()
        if self.sharded:
            carried = (2 * summed + ids + of_rows) * others / sizes.processes
        else:
            carried = 2 * (summed + of_rows) * others / sizes.processes + ids * others
        looked_up = sizes.own_rows * sizes.columns * sizes.width * (1 + sizes.passes)
        moved = NUMBER * (2 * looked_up + 2 * self.updated * (sizes.row_numbers + sizes.passes * sizes.width))
        return {
            "reading rows": sizes.own_rows * sizes.row_bytes / machine.disk,
            "layers": (2 + 4 * sizes.passes) * sizes.parameters * sizes.own_rows / machine.operations,
            "tables": moved / machine.bandwidth,
            "messages": carried / machine.network,
        }

    def step_seconds(self, machine: Machine) -> float:
        """Return the seconds of a step."""
        seconds = self.seconds(machine)
        reading = seconds.pop("reading rows")
        return max(reading, sum(seconds.values()))

    def epoch_seconds(self, machine: Machine) -> float:
        """Return the seconds of a pass over the rows."""
        return math.ceil(self.sizes.rows / self.sizes.batch_size) * self.step_seconds(machine)

    def fits(self, machine: Machine) -> bool:
        """Return whether a process's memory holds it."""
        return sum(self.memory().values()) <= machine.memory


def summed_bytes(tasks: int, parameters: int, passes: int = 1, shared: int | None = None, number: int = NUMBER) -> int:
    """Return the bytes of the sums of gradients over all processes, but for those of rows of tables.

    K losses and the K counts that they are divided by, P numbers, and those of the S shared ones again for each further
    pass: 2K + P + (passes − 1)·S, as `docs/howto/several_processes.md` lists it by method.
    """
    return number * (2 * tasks + parameters + (passes - 1) * (parameters if shared is None else shared))


def asked_bytes(distinct: float, processes: int, index: int = INDEX) -> float:
    """Return the bytes by which a process asks for rows that are spread: how many of each process, and which."""
    return 8 * processes + index * distinct


def exchanged_bytes(
    distinct: float, width: int, passes: int = 1, given: float | None = None, number: int = NUMBER
) -> float:
    """Return the bytes of rows that are spread, which a process gives to others, and of the gradients that it returns.

    It gives the rows that it is asked for, by default as many as it asks for itself, D, and returns a gradient of each
    of its own D in each pass.
    """
    return number * width * ((distinct if given is None else given) + passes * distinct)


def advice(sizes: Workload, machine: Machine) -> list[str]:
    """Return in sentences what breaks first, and which option helps."""
    found = []
    if sizes.ids > MOST_IDS:
        found.append(
            f"a table has at most {MOST_IDS:,} rows: the {sizes.ids:,} must be those of several tables, "
            "as features of different `width` have"
        )
    whole, spread = Plan(sizes), Plan(sizes, sharded=True)
    taken = f"{_giga(whole.table_bytes)} of tables and optimizer in each process, which has {_giga(machine.memory)}"
    if whole.fits(machine):
        found.append(f"whole tables fit: {taken}")
    elif sizes.processes == 1:
        found.append(f"a process does not hold it: {taken}: {_processes(sizes, machine)}")
    elif spread.fits(machine):
        found.append(f"whole tables do not fit: {taken}: `--trainer.shard_tables true` spreads them")
    else:
        found.append(f"tables do not fit, even if they are spread: {_smaller(sizes, machine)}")
    best = spread if sizes.processes > 1 and not whole.fits(machine) else whole
    seconds = best.seconds(machine)
    slowest = max(seconds, key=lambda name: seconds[name])
    found.append(f"most of a step goes into {slowest}: {SLOWEST[slowest]}")
    return found


SLOWEST = {
    "reading rows": "a faster disk, or rows on the disk of each machine, lets processes wait less",
    "layers": "more processes, smaller layers or `--trainer.optimization.precision bf16` shorten an epoch",
    "tables": "a smaller `width`, or a balancer with one backward pass, moves fewer numbers",
    "messages": "a balancer with one backward pass, a smaller `width`, or a faster network sends them sooner",
}


def _smaller(sizes: Workload, machine: Machine) -> str:
    by_row = replace(sizes, kept=1 / sizes.width)
    if sizes.kept > by_row.kept and Plan(by_row, sharded=True).fits(machine):
        return f"`--trainer.optimization.optimizer recmtl.{BY_ROW}` keeps one number for a row of a table"
    return _processes(sizes, machine)


def _processes(sizes: Workload, machine: Machine) -> str:
    """Return how many processes hold the tables, with the batch of each as it is."""
    for power in range(1, 21):
        more = replace(sizes, processes=1 << power, batch_size=sizes.own_rows << power)
        if more.processes > sizes.processes and Plan(more, sharded=True).fits(machine):
            return f"{more.processes:,} processes with `--trainer.shard_tables true` hold it"
    return "no number of processes holds it: give fewer rows to a batch, or a smaller `width`"


def _giga(number: float) -> str:
    return f"{number / 1e9:,.1f} GB"
