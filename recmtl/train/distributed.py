"""Training in several processes: how they start, and what they share beside gradients."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from recmtl.balance import ProcessGroup
from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.data import Rows
from recmtl.data.loader import default_window
from recmtl.errors import RunError
from recmtl.io.processes import launched, refuse_launch

MIN_ROWS = 2  # of a batch norm in training mode


def local_rank(processes: ProcessGroup) -> tuple[int, int]:
    """Return the rank of this process among those on its machine, and their number."""
    hosts = processes.all_gather_object(socket.gethostname())
    local = [rank for rank, host in enumerate(hosts) if host == hosts[processes.rank]]
    return local.index(processes.rank), len(local)


@contextmanager
def process_group(minutes: float) -> Iterator[ProcessGroup]:
    """Join the processes that ``torchrun`` started within a block; each waits so many minutes for the others.

    Raises:
        UsageError: The variables of ``torchrun`` are set in part, or wrong.
        RunError: The processes did not meet in that time.
    """
    if launched() == 1:
        yield SINGLE_PROCESS
        return
    address = os.environ.get("MASTER_ADDR", "").strip()
    port = os.environ.get("MASTER_PORT", "").strip()
    if not address or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        refuse_launch(f"MASTER_ADDR is {address!r} and MASTER_PORT {port!r}, expected a host and a port")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=timedelta(minutes=minutes))
    except (RuntimeError, ValueError) as error:  # every error of torch.distributed is a RuntimeError
        reason = str(error).partition("\n")[0]
        raise RunError(f"the {launched()} processes did not meet at {address}:{port}: {reason}") from error
    yield all_processes()
    dist.destroy_process_group()  # not after an error: the others may have ended


def all_processes() -> ProcessGroup:
    """Return the processes of `torch.distributed`; this one alone if it is not initialized."""
    return ProcessGroup(dist.group.WORLD) if dist.is_available() and dist.is_initialized() else SINGLE_PROCESS


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
