"""Training in several processes: how they start, and what they share beside gradients, or hold in parts."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recmtl.balance import ProcessGroup
from recmtl.balance.distributed import all_processes
from recmtl.data import Rows
from recmtl.data.loader import default_window
from recmtl.errors import RunError
from recmtl.features import EmbeddingTable
from recmtl.features.embedding_table import spread_tables
from recmtl.features.sharded_rows import ShardedRows
from recmtl.features.sharding import LARGE, sharded_tables
from recmtl.features.torchrec_rows import TorchRecRows
from recmtl.io.joining import MINUTES, joined
from recmtl.io.machine import available_memory
from recmtl.train.optimizers import check_optimizer, first_state
from recmtl.train.options import OptimizerFactory, ShardTables

MIN_ROWS = 2  # of a batch norm in training mode
FLOAT_BYTES = 4
MOST_OF_MEMORY = 0.5  # of what is free; the rest is for training rows, gradients and copies
STORAGES = {"torchrec": TorchRecRows}  # of `shard_tables`; otherwise `ShardedRows`


def local_rank(processes: ProcessGroup) -> tuple[int, int]:
    """Return the rank of this process among those on its machine, and their number."""
    hosts = processes.all_gather_object(socket.gethostname())
    local = [rank for rank, host in enumerate(hosts) if host == hosts[processes.rank]]
    return local.index(processes.rank), len(local)


@contextmanager
def process_group(minutes: float = MINUTES) -> Iterator[ProcessGroup]:
    """Join the processes that ``torchrun`` started within a block, as `joined` does."""
    with joined(minutes):
        yield all_processes()


def smallest_window(rows: Rows, processes: ProcessGroup) -> int:
    """Return the number of rows that each machine can hold, whose processes hold parts of them."""
    return min(processes.all_gather_object(default_window(rows)))


@torch.no_grad()
def average_statistics(processes: ProcessGroup, model: nn.Module, rows: int) -> None:
    """Average the running statistics of batch norms over the processes that had enough rows in a step."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    statistics = [s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None]
    if processes.size == 1 or not statistics:
        return
    measured = statistics[0].new_full((1,), float(rows >= MIN_ROWS))
    sums = [measured, *(measured * tensor for tensor in statistics)]
    processes.all_reduce(sums)
    for tensor, total in zip(statistics, sums[1:], strict=True):
        tensor.copy_(torch.where(sums[0] > 0, total / sums[0], tensor))


@contextmanager
def frozen_batch_norms(model: nn.Module, rows: int | None) -> Iterator[None]:
    """Let batch norms use their running statistics within a block if there are too few rows to measure any."""
    if rows is None or rows >= MIN_ROWS:
        yield
        return
    frozen = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in frozen:
        norm.eval()
    try:
        yield
    finally:
        for norm in frozen:
            norm.train()


@contextmanager
def untracked_batch_norms(model: nn.Module) -> Iterator[None]:
    """Let batch norms leave their running statistics as they are within a block; the batch is normalized as before."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    tracked = [norm for norm in norms if norm.training and norm.track_running_stats]
    for norm in tracked:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracked:
            norm.track_running_stats = True


class TableSpread:
    """Decides table by table whether its rows are spread over the processes; all processes decide the same.

    Without an option, tables stay whole in each process as long as they take at most half of the memory that is free
    for it, with the state of their optimizer.

    Args:
        option: Whether to spread large tables; ``None`` decides by memory.
        optimizer: Builds the optimizer.
        processes: The processes.
        device: The device of this process.
        held: The elements of large tables that the process holds already.

    Raises:
        RunError: The processes were given different options.
    """

    def __init__(
        self,
        option: ShardTables,
        optimizer: OptimizerFactory,
        processes: ProcessGroup,
        device: torch.device,
        held: int = 0,
    ) -> None:
        self._option = option
        self._kept = numbers_kept(optimizer) if option is None else (0.0, 0.0)
        gpu = device.type == "cuda"
        free = torch.cuda.mem_get_info(device)[0] if gpu else available_memory(local_rank(processes)[1])
        bytes_held = 0 if gpu else FLOAT_BYTES * held
        options, found = zip(*processes.all_gather_object((option, free + bytes_held)), strict=True)
        for rank, other in enumerate(options):
            if other != options[0]:
                raise RunError(f"process 0 trains with `shard_tables` {options[0]}, process {rank} with {other}")
        self._left = MOST_OF_MEMORY * min(found)

    def __call__(self, rows: int, width: int) -> bool:
        """Return whether to spread the rows of a table of a width."""
        if self._option is not None:
            return bool(self._option)
        by_weight, by_row = self._kept
        taken = FLOAT_BYTES * rows * (width * (1 + by_weight) + by_row)
        if taken > self._left:
            return True
        self._left -= taken
        return False


@contextmanager
def tables_to_train(
    option: ShardTables, optimizer: OptimizerFactory, device: Callable[[ProcessGroup], torch.device]
) -> Iterator[None]:
    """Spread the tables of a model that is built within the block as `shard_tables` says, each drawn by its owners.

    `device` opens the device of this process, which is asked for its memory.
    """
    processes, storage = all_processes(), storage_of(option)
    if option is False or (option is None and processes.size == 1):
        yield
        return
    with sharded_tables(processes, TableSpread(option, optimizer, processes, device(processes)), storage):
        yield


def shard_tables(
    model: nn.Module, option: ShardTables, optimizer: OptimizerFactory, processes: ProcessGroup, device: torch.device
) -> None:
    """Spread the large tables of a model over the processes as the option says: those of the first process.

    Raises:
        ValueError: The model was built with tables that are spread, and the option says that they are not.
    """
    storage = storage_of(option)
    if option is False and spread_tables(model):
        raise ValueError(
            "the model was built within `sharded_tables`, and `shard_tables` is false: leave one of them out"
        )
    tables = [m for m in model.modules() if isinstance(m, EmbeddingTable) and not m.sharded]
    large = [table for table in tables if table.weight.numel() > LARGE]
    if processes.size == 1 or not large:
        return
    spread = TableSpread(option, optimizer, processes, device, sum(table.weight.numel() for table in large))
    for table in large:
        if spread(*table.weight.shape):
            processes.broadcast([table.weight])
            table.shard(processes, storage)


def storage_of(option: ShardTables) -> type[ShardedRows]:
    """Return what holds the rows of tables that are spread over processes; raise a `ValueError` if it is unknown."""
    if not isinstance(option, str):
        return ShardedRows
    if option not in STORAGES:
        raise ValueError(f"`shard_tables` must be true, false or one of {[*STORAGES]}, got {option!r}")
    return STORAGES[option]


def numbers_kept(optimizer: OptimizerFactory) -> tuple[float, float]:
    """Return how many numbers an optimizer keeps for each weight of a table, and for each row: Adam 2 and 0."""
    check_optimizer(optimizer)
    rows, width = 2, 16
    narrow, wide = (_state_size(optimizer, torch.zeros(rows, size)) / rows for size in (width, 2 * width))
    by_weight = (wide - narrow) / width
    return by_weight, narrow - width * by_weight


def _state_size(optimizer: OptimizerFactory, table: Tensor) -> int:
    """Return how many numbers an optimizer keeps for a table."""
    state = first_state(optimizer, table).values()
    return sum(value.numel() for value in state if isinstance(value, Tensor) and value.dim())
