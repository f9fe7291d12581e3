"""Work done by several processes that share each batch."""

import importlib
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from recmtl.balance import ProcessGroup

# What takes seconds to import: once in a server that all processes are forked from, rather than once in each.
IMPORTED = ["torch.distributed", "torch.nn.parallel", "torch._dynamo", "pandas", "pytest", "recmtl.train"]


def together(number: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(ranks, *arguments)` gives in each of so many processes; one is this process itself."""
    if number == 1:
        return [work(ProcessGroup(), *arguments)]
    folder.mkdir()
    multiprocessing.set_forkserver_preload(IMPORTED)
    given = (dict(os.environ), number, folder, work, arguments)
    mp.start_processes(one_of_them, given, nprocs=number, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(number)]


def one_of_them(
    rank: int,
    environment: dict[str, str],
    number: int,
    folder: Path,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(environment)  # the server has that of its start
    importlib.import_module("tests.unseen")
    torch.set_num_threads(1)
    address = f"file://{folder / 'address'}"
    dist.init_process_group("gloo", address, timedelta(minutes=2), world_size=number, rank=rank)
    torch.save(work(ProcessGroup(dist.group.WORLD), *arguments), folder / f"{rank}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


# Forks, so that 20 launches import torch once; each process ends by C's `exit`, as that of a whole interpreter does.
LAUNCHES = """
import ctypes, os, sys
import torch, torch.distributed as dist
from recmtl.balance import ProcessGroup
{work}
torch.set_num_threads(1)
for launch in range(20):
    ranks = []
    for rank in range(2):
        ranks.append(os.fork())
        if not ranks[-1]:
            dist.init_process_group("gloo", f"file://{{sys.argv[1]}}/{{launch}}", rank=rank, world_size=2)
            work(ProcessGroup(dist.group.WORLD))
            dist.destroy_process_group()
            ctypes.CDLL(None).exit(3)
    print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks), flush=True)
"""


def check_launches(work: str, folder: Path) -> None:
    """Check that 20 launches of two processes, which do `work(processes)` of a program, end cleanly, without a word."""
    command = [sys.executable, "-W", "error", "-c", LAUNCHES.format(work=work), str(folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert found.stdout.split() == ["3"] * 40, found.stderr
    assert not found.stderr


def place(rank: int, size: int) -> ProcessGroup:
    """One of several processes that send nothing."""
    processes = ProcessGroup()
    processes.rank, processes.size = rank, size
    return processes


class Meeting:
    """Where threads exchange values."""

    def __init__(self, number: int) -> None:
        self.values: list[Any] = [None] * number
        self.barrier = threading.Barrier(number, timeout=60)


class ThreadGroup(ProcessGroup):
    """Threads that exchange sums and tensors like processes, without the seconds that these take to start."""

    def __init__(self, rank: int, meeting: Meeting) -> None:
        super().__init__()
        self.rank, self.size, self._meeting = rank, len(meeting.values), meeting

    def all_gather_object(self, value: Any) -> list[Any]:
        self._meeting.values[self.rank] = value
        self._meeting.barrier.wait()
        found = [*self._meeting.values]
        self._meeting.barrier.wait()
        return found

    @torch.no_grad()
    def all_reduce(self, tensors: Sequence[Tensor]) -> None:
        self.sent += sum(tensor.nbytes for tensor in tensors)
        every = self.all_gather_object([tensor.clone() for tensor in tensors])
        for tensor, parts in zip(tensors, zip(*every, strict=True), strict=True):
            tensor.copy_(sum(parts))

    @torch.no_grad()
    def all_to_all(self, tensor: Tensor, given: Sequence[int], taken: Sequence[int]) -> Tensor:
        self.sent += tensor.nbytes
        every = self.all_gather_object(tensor.detach().split(list(given)))
        return torch.cat([parts[self.rank] for parts in every])

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            tensor.data.copy_(self.all_gather_object(tensor.detach().clone())[0])

    def broadcast_object(self, value: Any) -> Any:
        return self.all_gather_object(value)[0]

    def _gather(self, tensor: Tensor) -> list[Tensor]:
        self.sent += tensor.nbytes
        return self.all_gather_object(tensor)


def in_threads(number: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(processes, *arguments)` gives in each of so many threads, which share all that is global."""
    meeting = Meeting(number)

    def one(rank: int) -> Any:
        try:
            return work(ThreadGroup(rank, meeting), *arguments)
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(number) as pool:
        return [*pool.map(one, range(number))]
