"""Copy batches to a GPU while it works: gathered by a thread into pinned memory, copied on a stream of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from recmtl.io.prefetch import prefetch

BUFFERS = 2  # one is filled while the other is copied

Fill = Callable[[Tensor], Tensor]
"""Writes a batch into the first rows of a buffer ``[rows, Σ widths]``, and returns them."""


def staged(fills: Iterable[Fill], rows: int, width: int, device: torch.device) -> Iterator[Tensor]:
    """Yield batches of packed rows on a GPU, int32 ``[size, width]``, which the current stream may read.

    Only buffers of one batch are pinned: pinned memory cannot be swapped out, and torch rounds it up to a power of two.
    Each batch gets memory of its own on the device. What is done in turn, for batch t:

    1. The host waits until the copy of batch t - 2 has ended, which came from the same buffer.
    2. A thread fills the buffer, while the device works and the host launches.
    3. The side stream copies once the device is done with batch t - 2, so that few batches lie there.
    4. The current stream waits until the copy has ended.

    Args:
        fills: One per batch.
        rows: Of the largest batch.
        width: Of a packed row.
        device: The GPU.
    """
    with torch.inference_mode(False):  # the thread that fills them is in no such mode
        buffers = [pinned(rows, width) for _ in range(BUFFERS)]
    side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    copied, used = ([torch.cuda.Event() for _ in buffers] for _ in range(2))  # type: ignore[no-untyped-call]

    def jobs() -> Iterator[Callable[[], Tensor]]:
        for number, fill in enumerate(fills):
            copied[number % BUFFERS].synchronize()  # by the caller's thread: none may wait while a step is recorded
            yield partial(fill, buffers[number % BUFFERS])

    for number, filled in enumerate(prefetch(jobs())):
        last_copy, last_use = copied[number % BUFFERS], used[number % BUFFERS]
        side.wait_event(last_use)
        with torch.cuda.stream(side):
            batch = on_device(filled, device)
            last_copy.record(side)
        current = torch.cuda.current_stream(device)
        current.wait_event(last_copy)
        batch.record_stream(current)  # which is done with it before its memory is used again
        yield batch
        last_use.record(torch.cuda.current_stream(device))


def pinned(rows: int, width: int) -> Tensor:
    """Return an empty buffer, int32 ``[rows, width]``, from which a GPU copies without a wait of the host."""
    return torch.empty(rows, width, dtype=torch.int32, pin_memory=True)


def on_device(filled: Tensor, device: torch.device) -> Tensor:
    """Launch a copy to a device on the current stream."""
    return filled.to(device, non_blocking=True)
