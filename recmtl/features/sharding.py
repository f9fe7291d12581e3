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
    "give the feature fewer `hash_buckets`, a larger `min_count` or a smaller `width`, or train by `torchrun` with "
    "`--trainer.shard_tables true`, which spreads the table over the processes"
)


class _Sharding(NamedTuple):
    processes: ProcessGroup
    spread: Callable[[int, int], bool]  # whether to spread a table of so many rows and a width
    storage: type[ShardedRows]


_SHARDING: ContextVar[_Sharding | None] = ContextVar("sharding", default=None)


@contextmanager
def sharded_tables(
    processes: ProcessGroup | None = None,
    spread: Callable[[int, int], bool] = lambda rows, width: True,
    storage: type[ShardedRows] = ShardedRows,
) -> Iterator[None]:
    """Spread the rows of large embedding tables over processes: for models that are built within the block.

    Of a table of more than a million elements each process holds and draws its own rows alone. They are the rows that
    such a table has which is whole, for any number of processes. All processes build the same model.

    Args:
        processes: The processes; ``None`` takes those of `torch.distributed`.
        spread: Whether to spread such a table, by its rows and width; the same in all processes. By default it is.
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
    if rows * width <= LARGE:
        with _explained(sizes, rows, width, rows):
            return ReplicatedRows(), torch.randn(rows, width).mul_(INITIAL_STD)
    sharding, seed = _SHARDING.get(), int(torch.randint(1 << 32, ()))
    if sharding is None or sharding.processes.size == 1 or not sharding.spread(rows, width):
        with _explained(sizes, rows, width, rows):
            return ReplicatedRows(), whole_table(seed, rows, width)
    storage = sharding.storage(rows, sharding.processes)
    with _explained(sizes, rows, width, storage.places.own):
        return storage, own_rows(sharding.processes.broadcast_object(seed), storage.places, width)


def whole_table(seed: int, rows: int, width: int) -> Tensor:
    """Draw all rows of a table in the order of their ids."""
    places, weight = RowPlaces(rows, 1, 0), torch.empty(rows, width)
    for start, drawn in drawn_blocks(seed, places, width):
        weight.index_copy_(0, places.own_rows(start, start + len(drawn)), drawn.to(weight))
    return weight


def own_rows(seed: int, places: RowPlaces, width: int) -> Tensor:
    """Draw this process's rows of a table in the order of their places."""
    weight = torch.empty(places.own, width)
    for start, drawn in drawn_blocks(seed, places, width):
        weight[start : start + len(drawn)] = drawn
    return weight


def drawn_blocks(seed: int, places: RowPlaces, width: int) -> Iterator[tuple[int, Tensor]]:
    """Draw this process's rows by blocks of places, each by a generator of its own seed.

    Yields:
        The place of the first row, counted from this process's first one, and the rows, valid until the next ones.
    """
    generator, room = torch.Generator(), torch.empty(min(BLOCK, places.rows), width, device="cpu")
    stop = places.start + places.own
    for block in range(places.start // BLOCK, -(-stop // BLOCK)):
        first, last = block * BLOCK, min((block + 1) * BLOCK, places.rows)
        generator.manual_seed((seed + block) % (1 << 32))
        drawn = room[: last - first].normal_(0, INITIAL_STD, generator=generator)
        start = max(places.start, first)
        yield start - places.start, drawn[start - first : min(stop, last) - first]


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
