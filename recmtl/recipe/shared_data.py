"""The data of a recipe in several processes: the first one of each machine prepares raw files for the others."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from recmtl.balance import ProcessGroup
from recmtl.data import PreparedData
from recmtl.train.distributed import local_rank

PATIENCE = timedelta(days=365)  # to wait for rows to be prepared; a process that ends is noticed at once


def open_shared_data(open_first: Callable[[], PreparedData], processes: ProcessGroup) -> PreparedData:
    """Open the data of a recipe in several processes.

    The first process of each machine prepares raw files, or finds them in the cache. The others wait for as long as
    that takes, whatever the timeout of their messages, and open the folder that it has written.

    Args:
        open_first: How the first ones open the data.
        processes: The processes.

    Raises:
        LostRankError: A process that others wait for has ended.
    """
    if processes.size == 1:
        return open_first()
    first = local_rank(processes)[0] == 0
    patient = ProcessGroup(dist.new_group(timeout=PATIENCE, backend="gloo"))
    data = open_first() if first else None
    host = socket.gethostname()
    folders = dict(filter(None, patient.all_gather_object((host, str(data.folder)) if data else None)))
    return data or PreparedData.open(folders[host])
