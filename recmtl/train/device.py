"""Where a training happens: whether the device is there, and does what the options ask of it."""

from __future__ import annotations

import torch

from recmtl.balance import Ranks
from recmtl.train.options import Optimization
from recmtl.train.processes import neighbourhood


def device_of(wanted: str | None, ranks: Ranks) -> str:
    """Name the device of this process.

    Args:
        wanted: What the options name; ``None`` takes a GPU where there is one.
        ranks: The processes that train together: of several on one machine each has a GPU of its own.
    """
    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    return f"cuda:{neighbourhood(ranks)[0]}" if device == "cuda" and ranks.size > 1 else device


def usable(device: str) -> torch.device:
    """Give a device that tensors can be made on.

    Raises:
        ValueError: There is no such device.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def check_without_gpu(optimization: Optimization, device: torch.device) -> None:
    """Refuse options that ask for a GPU.

    Raises:
        ValueError: There is one.
    """
    if optimization.precision == "tf32":
        raise ValueError(f"`precision` 'tf32' is for a CUDA device, got {str(device)!r}: take 'fp32' or 'bf16'")
    if optimization.cuda_graph:
        raise ValueError(f"`cuda_graph` is for a CUDA device, got {str(device)!r}: leave it out")
