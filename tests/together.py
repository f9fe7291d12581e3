"""Work done by several processes that share each batch."""

import multiprocessing
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

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
    torch.set_num_threads(1)
    address = f"file://{folder / 'address'}"
    dist.init_process_group("gloo", address, timedelta(minutes=2), world_size=number, rank=rank)
    torch.save(work(ProcessGroup(dist.group.WORLD), *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()
