"""Rows that memory does not hold at once: read window by window, each while the one before is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.data.ahead import ahead
from recmtl.data.prepared import Rows
from recmtl.data.shard import BLOCK_ROWS


class Window(NamedTuple):
    """Rows in memory, and the order in which they are taken.

    Args:
        matrix: Packed rows ``[n, Σ widths]``.
        order: Their positions in the order of the epoch, int64 ``[n]``; ``None`` keeps the one they lie in.
    """

    matrix: Tensor
    order: Tensor | None

    def take(self, start: int, end: int) -> Tensor:
        """Give some rows of the order."""
        return self.matrix[start:end] if self.order is None else self.matrix.index_select(0, self.order[start:end])

    def after(self, rows: int) -> Window:
        """Give what is left after some rows of the order."""
        return Window(self.matrix[rows:], None) if self.order is None else Window(self.matrix, self.order[rows:])

    @property
    def rows(self) -> int:
        """How many rows the order has."""
        return len(self.matrix if self.order is None else self.order)


def read_windows(rows: Rows, size: int, generator: torch.Generator | None, skip: int = 0) -> Iterator[Window]:
    """Read rows in windows, the next one always ahead, by a thread of its own.

    Args:
        rows: The rows.
        size: Rows of a window, about.
        generator: Shuffles the blocks of the file over the windows, then the rows of a window; ``None`` keeps the
            order of the file.
        skip: Rows of the order to leave out at the beginning: windows that hold no others are not read.
    """
    blocks = torch.arange(0, len(rows), BLOCK_ROWS)
    if generator is not None:
        blocks = blocks[torch.randperm(len(blocks), generator=generator)]
    windows = torch.split(blocks, max(1, size // BLOCK_ROWS))

    def read(spans: list[tuple[int, int]], order: Tensor | None, skip: int) -> Window:
        return Window(rows.packed(spans), order).after(skip)

    def jobs(skip: int) -> Iterator[Callable[[], Window]]:
        for starts in (window.tolist() for window in windows):
            spans = [(start, min(start + BLOCK_ROWS, len(rows))) for start in starts]
            count = sum(end - start for start, end in spans)
            order = None if generator is None else torch.randperm(count, generator=generator)
            if skip < count:
                yield partial(read, spans, order, skip)
            skip = max(0, skip - count)

    yield from ahead(jobs(skip))


def cut(windows: Iterable[Window], sizes: Iterable[int]) -> Iterator[Tensor]:
    """Cut windows into batches of the given sizes, of which some span two windows ``[size, Σ widths]``."""
    source = iter(windows)
    window, start = next(source), 0
    for size in sizes:
        parts: list[Tensor] = []
        while size:
            if start == window.rows:
                window, start = next(source), 0
            end = min(start + size, window.rows)
            parts.append(window.take(start, end))
            size, start = size - (end - start), end
        yield parts[0] if len(parts) == 1 else torch.cat(parts)
