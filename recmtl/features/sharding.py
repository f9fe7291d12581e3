"""Whether the rows of a table are spread over processes, and the first rows of a table: drawn whole, or by owners."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.balance.distributed import ProcessGroup, all_processes
from recmtl.features.row_places import RowPlaces
from recmtl.features.sharded_rows import ShardedRows
from recmtl.features.table_rows import ReplicatedRows, TableRows
from recmtl.io.machine import available_memory, explain_oom

INITIAL_STD = 0.01
LARGE = 1_000_000  # elements of a table above which its rows may be spread, and a step gathers them; less fits a cache
MOST_ROWS = (1 << 31) - 1  # that an int32 id can address
BLOCK = 1 << 16  # places whose rows are drawn by one generator
ADVICE = (
    "give the feature fewer `hash_buckets`, a larger `min_count` or a smaller `width`, or spread the table over the "
    "processes of `torchrun` by `--trainer.shard_tables true`"
)


class _Sharding(NamedTuple):
    processes: ProcessGroup
    spread: Callable[[int], bool]  # whether to spread a table of so many elements
    storage: type[ShardedRows]


_SHARDING: ContextVar[_Sharding | None] = ContextVar("sharding", default=None)


@contextmanager
def sharded_tables(
    processes: ProcessGroup | None = None,
    spread: Callable[[int], bool] = lambda elements: True,
    storage: type[ShardedRows] = ShardedRows,
) -> Iterator[None]:
    """Spread the rows of large embedding tables over processes: for models that are built within the block.

    Of a table of more than a million elements each process holds and draws its own rows alone. The numbers do not
    depend on the number of processes, a single one draws the same. All processes build the same model.

    Args:
        processes: The processes; ``None`` takes those of `torch.distributed`.
        spread: Whether to spread such a table of so many elements; the same in all processes. By default it is.
        storage: What holds and looks up the rows; `recmtl.features.TorchRecRows` does it by TorchRec.

    Example:
        >>> from recmtl.features import EmbeddingTable
        >>> from recmtl.schema import Categorical, IdBlock
        >>> user = IdBlock(Categorical("user", hash_buckets=300_000), 300_000, 0, 1)
        >>> with sharded_tables():
        ...     table = EmbeddingTable([user], width=4)
        >>> table.weight.shape  # of two processes each would have 150,000 rows
        torch.Size([300000, 4])
    """
    token = _SHARDING.set(_Sharding(all_processes() if processes is None else processes, spread, storage))
    try:
        yield
    finally:
        _SHARDING.reset(token)


def new_rows(sizes: Mapping[str, int], rows: int, width: int) -> tuple[TableRows, Tensor]:
    """Draw the first rows of a table of features of the given sizes, N(0, 0.01²): those that this process holds.

    Returns:
        Where the rows of the table lie, and this process's weight.

    Raises:
        OutOfMemoryError: Memory does not hold them.
        ValueError: The table has more rows than an int32 can address.
    """
    if rows > MOST_ROWS:
        raise ValueError(
            f"a table can have at most {MOST_ROWS:,} rows, got {rows:,}: give some of {list(sizes)} another `width`"
        )
    sharding = _SHARDING.get()
    if sharding is None or rows * width <= LARGE or not sharding.spread(rows * width):
        with _explained(sizes, rows, width, rows):
            return ReplicatedRows(), torch.randn(rows, width).mul_(INITIAL_STD)
    processes = sharding.processes
    seed = processes.broadcast_object(int(torch.randint(1 << 32, ())))
    places = RowPlaces(rows, processes.size, processes.rank)
    with _explained(sizes, rows, width, places.own):
        weight = drawn_rows(seed, places, width)
    if processes.size > 1:
        return sharding.storage(rows, processes), weight
    in_order = torch.empty_like(weight)
    in_order[places.own_rows()] = weight
    return ReplicatedRows(), in_order


def drawn_rows(seed: int, places: RowPlaces, width: int) -> Tensor:
    """Draw this process's rows in the order of their places; each block of places has a generator of its own seed."""
    weight = torch.empty(places.own, width)
    stop = places.start + places.own
    for block in range(places.start // BLOCK, -(-stop // BLOCK)):
        generator = torch.Generator().manual_seed((seed + block) % (1 << 32))
        drawn = torch.randn(min(BLOCK, places.rows - block * BLOCK), width, generator=generator).mul_(INITIAL_STD)
        start, end = max(places.start, block * BLOCK), min(stop, (block + 1) * BLOCK)
        weight[start - places.start : end - places.start] = drawn[start - block * BLOCK : end - block * BLOCK]
    return weight


@contextmanager
def _explained(sizes: Mapping[str, int], rows: int, width: int, own: int) -> Iterator[None]:
    """Explain that memory does not hold a process's own rows of a table, if it does not."""
    largest = max(sizes, key=lambda name: sizes[name])
    part = f"the {own:,} rows of this process of " if own < rows else ""
    table = f"{part}an embedding table of {rows:,} rows × {width}, {sizes[largest]:,} of them for {largest!r}"
    with explain_oom(table, ADVICE):
        if 4 * own * width > available_memory():  # the system may overcommit and kill the process later
            raise MemoryError
        yield
