"""The processes that train together: how they are found, and what they tell each other beside gradients."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

from recmtl.balance import ProcessGroup
from recmtl.balance.distributed import SINGLE_PROCESS, explain_lost_rank
from recmtl.data import Rows
from recmtl.data.loader import default_window

T = TypeVar("T")
FEWEST = 2  # rows that a batch norm can measure


def launched() -> int:
    """Give how many processes were started together, as by ``torchrun``."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def place() -> int:
    """Give the place of this process among them."""
    return int(os.environ.get("RANK", 0))


def local_rank(processes: ProcessGroup) -> tuple[int, int]:
    """Give the place of this process among those that share its machine, and how many these are."""
    hosts = all_gather_object(processes, socket.gethostname())
    mine = [rank for rank, host in enumerate(hosts) if host == hosts[processes.rank]]
    return mine.index(processes.rank), len(mine)


@contextmanager
def process_group(minutes: float) -> Iterator[ProcessGroup]:
    """Join the processes that were started together, for the time of a block; they talk by gloo, GPUs by NCCL.

    Args:
        minutes: How long one waits for the others before it gives up.
    """
    if launched() == 1:
        yield SINGLE_PROCESS
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=minutes))
    yield all_processes()
    dist.destroy_process_group()  # not after an error, when the others may be gone


def all_processes() -> ProcessGroup:
    """Give the processes of `torch.distributed`; where it was not initialized, this one alone."""
    return ProcessGroup(dist.group.WORLD) if dist.is_available() and dist.is_initialized() else SINGLE_PROCESS


def broadcast_object(processes: ProcessGroup, value: T) -> T:
    """Give what the first process has."""
    if processes.size == 1:
        return value
    told: list[T] = [value]
    with explain_lost_rank():
        dist.broadcast_object_list(told, src=0, group=processes.group)
    return told[0]


def all_gather_object(processes: ProcessGroup, value: T) -> list[T]:
    """Give what each process has, in their order."""
    if processes.size == 1:
        return [value]
    told: list[T] = [value] * processes.size
    with explain_lost_rank():
        dist.all_gather_object(told, value, group=processes.group)
    return told


def elementwise_max(processes: ProcessGroup, *values: int) -> Sequence[int]:
    """Give of each number the largest that a process has."""
    return [max(numbers) for numbers in zip(*all_gather_object(processes, values), strict=True)]


def smallest_window(rows: Rows, processes: ProcessGroup) -> int:
    """Give how many rows each process can hold at a time, beside those that run on the same machine."""
    return min(all_gather_object(processes, default_window(rows, local_rank(processes)[1])))


@torch.no_grad()
def copy_from_first(processes: ProcessGroup, module: nn.Module) -> None:
    """Give each process the first one's parameters and buffers."""
    if processes.size == 1:
        return
    for tensor in (*module.parameters(), *module.buffers()):
        with explain_lost_rank():
            dist.broadcast(tensor, src=0, group=processes.group)


@torch.no_grad()
def average_statistics(processes: ProcessGroup, model: nn.Module, rows: int) -> None:
    """Make the running statistics of batch norms the mean of those that processes have measured in a step.

    Args:
        processes: The processes.
        model: Holds the batch norms, where there are any.
        rows: How many rows this process had: with too few, it has measured none.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    statistics = [s for norm in norms for s in (norm.running_mean, norm.running_var) if s is not None]
    if processes.size == 1 or not statistics:
        return
    measured = statistics[0].new_full((1,), float(rows >= FEWEST))
    sums = [measured, *(measured * tensor for tensor in statistics)]
    processes.all_reduce(sums)
    for tensor, total in zip(statistics, sums[1:], strict=True):
        tensor.copy_(torch.where(sums[0] > 0, total / sums[0], tensor))


@contextmanager
def frozen_batch_norms(model: nn.Module, rows: int | None) -> Iterator[None]:
    """Let batch norms use their running statistics within a block, where there are too few rows to measure any."""
    if rows is None or rows >= FEWEST:
        yield
        return
    resting = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in resting:
        norm.eval()
    try:
        yield
    finally:
        for norm in resting:
            norm.train()
