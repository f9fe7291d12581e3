"""The memory, messages and time that a training of given sizes needs in each process, by formulas.

Symbols: N processes share batches of B rows, b = ⌈B/N⌉ of them each. A row has c id columns; all tables together have
R rows of width w. K losses are balanced in `passes` backward passes, P numbers are trained beside the tables.
All bytes are those of one process.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from recmtl.data import PreparedData
from recmtl.features.encoder import default_width

NUMBER, INDEX = 4, 4  # bytes of a float32, and of an id, int32
BY_ROW = "RowWiseAdagrad"
# Numbers that an optimizer keeps for each weight of a table, and for each row, by its class.
KEPT: Mapping[str, tuple[float, float]] = {"Adam": (2, 0), "AdamW": (2, 0), "Adagrad": (1, 0), "SGD": (0, 0)} | {
    BY_ROW: (0, 1)
}
SAMPLE_ROWS = 100_000  # in which the elements of lists are counted


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
        width: Of the tables, w; if it differs, the mean over their rows.
        columns: Id columns of a row, c.
        numbers: Numeric columns of a row.
        tasks: Losses, K.
        parameters: Trained numbers beside the tables, P.
        processes: N.
        batch_size: Rows of the whole batch, B.
        passes: Backward passes of a step: 1, or K where tasks' gradients are balanced.
        kept: Numbers that the optimizer keeps for each weight of a table.
        kept_by_row: Numbers that it keeps for each row of a table, whatever its width.
        tables: Embedding tables, T: one for the features of a width.
        measured: Numbers by which the balancer measures the gradients of a feature's rows: K norms, K² inner products.
        clipped: Whether the gradient of the model is clipped.
        forwards: Forward passes of a step: 2 of FAMO, which computes the losses again after it.
        balancer_sent: Bytes that the balancer adds up over the processes beside losses, counts and gradients.
        balancer_held: Bytes of the balancer's state and of what it trains, with the optimizer.

    Raises:
        ValueError: A size is below 1, or a batch has fewer rows than there are processes.
    """

    rows: int
    ids: int
    width: float = 16
    columns: int = 30
    numbers: int = 0
    tasks: int = 2
    parameters: int = 1_000_000
    processes: int = 1
    batch_size: int = 2048
    passes: int = 1
    kept: float = 2.0
    kept_by_row: float = 0.0
    tables: int = 1
    measured: int = 0
    clipped: bool = False
    forwards: int = 1
    balancer_sent: int = 0
    balancer_held: int = 0

    def __post_init__(self) -> None:
        least = {"rows": 1, "ids": 1, "width": 1, "columns": 1, "numbers": 0, "tasks": 1, "parameters": 1, "tables": 1}
        for name, smallest in (least | {"processes": 1, "batch_size": self.processes}).items():
            if getattr(self, name) < smallest:
                raise ValueError(f"`{name}` must be at least {smallest:,}, got {getattr(self, name):,}")

    @classmethod
    def of(cls, data: PreparedData, **given: Any) -> Workload:
        """Return the sizes of a training on a prepared dataset, with embeddings of the default widths.

        Args:
            data: The dataset.
            **given: Sizes that are not those of the dataset, such as `processes`.
        """
        schema, tables = data.schema, dict[int, dict[Any, int]]()
        for block in schema.id_blocks:
            tables.setdefault(block.width or default_width(block.first_size), {})[block.owner] = block.size
        of_width = {width: sum(sizes.values()) for width, sizes in tables.items()} or {1: 1}  # next to none
        first = data.train.span(0, SAMPLE_ROWS)
        elements = sum(int(lists.offsets[-1]) for lists in first.lists()) / max(1, len(first))
        found = {
            "rows": len(data.train),
            "ids": sum(of_width.values()),
            "width": sum(width * rows for width, rows in of_width.items()) / sum(of_width.values()),
            "columns": max(1, math.ceil(schema.id_columns + elements)),
            "numbers": schema.numeric_columns,
            "tasks": len(schema.schema.tasks),
            "tables": len(of_width),
        }
        return cls(**{**found, **given})

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
        return self.width * (1 + self.kept) + self.kept_by_row

    def distinct(self, rows: int) -> float:
        """Return how many distinct ids so many rows have, at most on average.

        R·(1 − (1 − 1/R)ⁿ) of n ids drawn evenly; any skew has fewer, as 1 − (1 − p)ⁿ is concave in p.
        """
        return -self.ids * math.expm1(rows * self.columns * math.log1p(-1 / self.ids)) if self.ids > 1 else 1.0


@dataclass(frozen=True)
class Plan:
    """What a training needs in each process, with whole tables in all of them or with their rows spread.

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
        """Tables and optimizer: 4·(w·(1 + kept) + kept_by_row) bytes for each row that a process holds, R or ⌈R/N⌉."""
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
            "balancer": sizes.balancer_held,
            "rows of a step": NUMBER * rows,
            "batches": sizes.own_rows * (2 * sizes.row_bytes + 2 * NUMBER * sizes.columns * sizes.width),
        }

    def sent(self) -> dict[str, float]:
        """Return the bytes that a process gives to messages in a step, by what they are for."""
        sizes, of_rows = self.sizes, NUMBER * self.sizes.width * self.sizes.passes
        if sizes.processes == 1:
            return dict.fromkeys(("gradients of layers", "ids", "rows and gradients", "norms, products and flags"), 0.0)
        measured = 0.0
        if self.sharded:
            measured = measured_bytes(sizes.tables, sizes.columns, sizes.measured, sizes.clipped)
            ids = sizes.forwards * asked_bytes(self.read, sizes.processes)
            rows = exchanged_bytes(self.read, sizes.width, sizes.passes, sizes.forwards * self.read)
        else:
            ids, rows = 8 + INDEX * sizes.distinct(sizes.own_rows), of_rows * self.read
        layers = summed_bytes(sizes.tasks, sizes.parameters, sizes.passes) + sizes.balancer_sent
        return {
            "gradients of layers": layers,
            "ids": ids,
            "rows and gradients": rows,
            "norms, products and flags": measured,
        }

    def host_memory(self) -> dict[str, float]:
        """Return bytes of host memory: the order of an epoch in each process, and the rows that all of them map."""
        rows = float(self.sizes.rows)
        return {"order of the rows": 8 * rows, "rows, which processes of a machine share": rows * self.sizes.row_bytes}

    def seconds(self, machine: Machine) -> dict[str, float]:
        """Return the seconds of a step, by what takes them; rows are read while the step before is computed.

        A layer takes 2 operations for a weight and row in each forward pass, and 4 in each backward pass. A row of a
        table is read where it is looked up, written back by each pass, and read and written with its moments. A ring
        that adds up sends 2·(N − 1)/N of the bytes, one that gathers N − 1 times its own (Patarasu and Yuan, 2009), and
        an all-to-all (N − 1)/N.
        """
        sizes, sent, others = self.sizes, self.sent(), self.sizes.processes - 1
        summed, ids, of_rows, measured = sent.values()
        if self.sharded:
            carried = (2 * (summed + measured) + ids + of_rows) * others / sizes.processes
        else:
            carried = 2 * (summed + of_rows) * others / sizes.processes + ids * others
        looked_up = sizes.own_rows * sizes.columns * sizes.width * (sizes.forwards + sizes.passes)
        moved = NUMBER * (2 * looked_up + 2 * self.updated * (sizes.row_numbers + sizes.passes * sizes.width))
        return {
            "reading rows": sizes.own_rows * sizes.row_bytes / machine.disk,
            "layers": (2 * sizes.forwards + 4 * sizes.passes) * sizes.parameters * sizes.own_rows / machine.operations,
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
    distinct: float, width: float, passes: int = 1, given: float | None = None, number: int = NUMBER
) -> float:
    """Return the bytes of rows that are spread, which a process gives to others, and of the gradients that it returns.

    It gives the rows that it is asked for, by default as many as it asks for itself, D, and returns a gradient of each
    of its own D in each pass.
    """
    return number * width * ((distinct if given is None else given) + passes * distinct)


def measured_bytes(tables: int, features: int, measured: int = 0, clipped: bool = False, number: int = NUMBER) -> int:
    """Return the bytes of what each process finds in its part of spread tables, and all of them add up.

    Of each of T tables and F features whether its gradients are finite, and whether one is not 0, each in a float64; of
    each feature the norms and inner products by which a method on task gradients measures them; and the norm of all of
    them, to clip.
    """
    return 16 * (tables + features) + number * (measured * features + clipped)
