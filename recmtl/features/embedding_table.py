"""One flat embedding table for all features of one width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recmtl.balance.distributed import SINGLE_PROCESS
from recmtl.balance.shared import SharedTensor
from recmtl.data import IdLists, Share
from recmtl.features.growth import RowOrigins, table_origins
from recmtl.features.table_rows import GatheredRows, ReplicatedRows, TableRows, parts_of
from recmtl.io.machine import available_memory, explain_oom
from recmtl.schema import FittedSchema, IdBlock, MultiCategorical

INITIAL_STD = 0.01
MOST_ROWS = (1 << 31) - 1  # that an int32 id can address


class Field(NamedTuple):
    """The embeddings of one feature in a batch.

    Attributes:
        values: ``[B, d]``; of a list ``[B, L, d]``, L its longest one in the training rows.
        mask: Of a list, which of its L places hold an element, bool ``[B, L]``; ``None`` for a single value.
    """

    values: Tensor
    mask: Tensor | None = None


class Lists(NamedTuple):
    """The embeddings of a multi-valued feature in a batch, one list after the other.

    Attributes:
        values: ``[T, d]``, after the last list perhaps spare ones.
        offsets: int64 ``[B + 1]``, the place of each list's first embedding, then that after the last list.
    """

    values: Tensor
    offsets: Tensor

    def padded(self, length: int) -> Field:
        """Return the embeddings with `length` places for each list, zeros in the others, and the mask of the places."""
        place = self.offsets[:-1, None] + torch.arange(length, device=self.offsets.device)  # [B, L]
        mask = place < self.offsets[1:, None]
        with_zeros = torch.cat([self.values, self.values.new_zeros(1, self.values.shape[1])])
        index = torch.where(mask, place, self.values.shape[0])
        return Field(with_zeros.index_select(0, index.flatten()).view(*mask.shape, -1), mask)


class Embedded(NamedTuple):
    """The embeddings of a table's features in a batch."""

    singles: Tensor  # [B, features with one value, width]
    lists: tuple[Lists, ...]


class EmbeddingTable(nn.Module):
    """The embeddings of all features of one width in one table, each feature at its own offset.

    Features that share a vocabulary share an offset, too. Rows start at N(0, 0.01²), the rows of "unknown" at zero.

    In *row mode* a training pass gathers the distinct rows of the batch into a new leaf, which takes the table's place
    in `shared_tensors`: gradients equal those of the whole table, and its other rows are not touched. All look-ups of
    a step read this leaf: the first one gathers the rows of all its ids, later ones may have the same ids or some of
    them. The caller writes the updated rows back, as `recmtl.train.optimizers` does. If several processes share a
    batch, each finds the distinct ids of its own rows, learns those of the others, and gathers the rows of all: so
    their gradients have one shape and can be summed.

    Attributes:
        storage: Where the rows lie.
        row_mode: Whether training passes gather rows; off by default.
        singles: The blocks with one value per row, in the order of the output.
        lists: The blocks of multi-valued features, in the order of the output.

    Shape:
        - ids: int32 ``[B, id columns]``, indices within each feature
        - lists: those of all multi-valued features, each with T values
        - output: ``[B, singles, width]``, and of each list ``[T, width]``

    Args:
        blocks: The features and their columns.
        width: The width of an embedding.

    Raises:
        OutOfMemoryError: Memory does not hold the table.
        ValueError: The table has more rows than an int32 can address.
    """

    offsets: Tensor
    columns: Tensor
    bounds: Tensor

    def __init__(self, blocks: Sequence[IdBlock], width: int) -> None:
        super().__init__()
        # Single-valued features first: one gather serves them all, without pooling.
        blocks = sorted(blocks, key=lambda block: isinstance(block.feature, MultiCategorical))
        self.width, self.features = width, len(blocks)
        self.lists = [block for block in blocks if isinstance(block.feature, MultiCategorical)]
        self.singles = blocks[: len(blocks) - len(self.lists)]
        owned = {b.owner: b.size for b in blocks}
        sizes = torch.tensor(list(owned.values()))
        starts = sizes.cumsum(0) - sizes
        place = {owner: i for i, owner in enumerate(owned)}
        offsets = starts[[place[block.owner] for block in blocks]]
        columns = torch.tensor([block.start for block in self.singles], dtype=torch.int64)
        self.register_buffer("offsets", offsets[: len(columns)].int(), persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self._offsets_of_lists = offsets[len(columns) :].tolist()
        self.register_buffer("bounds", torch.cat([starts, sizes.sum()[None]]), persistent=False)
        self.weight = nn.Parameter(
            first_rows({name: size for (name, _), size in owned.items()}, int(sizes.sum()), width)
        )
        with torch.no_grad():
            self.weight[starts] = 0
        self._spans = {owner: (int(start), size) for start, (owner, size) in zip(starts, owned.items(), strict=True)}
        self.storage: TableRows = ReplicatedRows()
        self.row_mode = False
        self._share: Share | None = None
        self._gathered: GatheredRows | None = None
        self._slots: tuple[Tensor, Sequence[IdLists], Tensor] | None = None  # gathered ids, and the row of each
        self._whole: tuple[Tensor, Tensor] | None = None  # the parts of the whole table, once it was shared

    def forward(self, ids: Tensor, lists: Sequence[IdLists] = ()) -> Embedded:
        """Return the embeddings of a batch.

        Raises:
            ValueError: The batch lacks the lists of a feature.
        """
        if self.lists and len(lists) <= self.lists[-1].start:
            raise ValueError(
                f"a batch must have a list for each multi-valued feature, {self.lists[-1].name!r} among them, got "
                f"{len(lists)} lists: pass `lists`"
            )
        own = [lists[block.start] for block in self.lists]
        rows, count = self._looked_up(ids, lists), len(self.singles)  # [B·S + Σ T, width]
        if not own:
            return Embedded(rows.view(ids.shape[0], count, self.width), ())
        singles, *listed = torch.split(rows, [ids.shape[0] * count, *(each.values.shape[0] for each in own)])
        found = (Lists(values, each.offsets) for values, each in zip(listed, own, strict=True))
        return Embedded(singles.view(ids.shape[0], count, self.width), tuple(found))

    def rows_of(self, block: IdBlock) -> Tensor:
        """Return the rows of a feature, a view of the table ``[size, width]``."""
        return self.weight.detach().narrow(0, *self._spans[block.owner])

    def _ids_in_table(self, ids: Tensor, lists: Sequence[IdLists]) -> Tensor:
        """Return all ids as ids of the whole table, those of the lists last ``[B·S + Σ T]``."""
        own = ids if ids.shape[1] == len(self.columns) else ids.index_select(1, self.columns)
        singles = (own + self.offsets).flatten()
        if not self.lists:
            return singles
        pairs = zip(self.lists, self._offsets_of_lists, strict=True)
        # Spare values read the row of "unknown".
        return torch.cat([singles, *(lists[block.start].values.clamp(min=0) + offset for block, offset in pairs)])

    def row_origins(self, old: FittedSchema, new: FittedSchema) -> dict[str, RowOrigins]:
        """Return what the rows start as, given those of the same table for an older schema that the own one extends."""
        return {"weight": table_origins(list(self._spans), old, new)}

    @property
    def owners(self) -> list[str]:
        """The features with rows of their own, in the order of the rows."""
        return [".".join(filter(None, owner)) for owner in self._spans]

    def by_owner(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Split a tensor shaped like the table by feature."""
        return torch.split(whole, [size for _, size in self._spans.values()])

    def gradient_norms(self) -> Tensor:
        """Return a norm of each feature's part of the last gradient, ``[owners]``; not finite if the part is not."""
        tensor: Tensor = self.weight if self._gathered is None else self._gathered.rows
        if tensor.grad is None:
            return self.weight.new_zeros(len(self._spans))
        if self._gathered is None:
            return torch.stack(torch._foreach_norm(self.by_owner(tensor.grad)))
        return self._as_shared().sums(torch.linalg.vector_norm(tensor.grad, dim=1))

    def _looked_up(self, ids: Tensor, lists: Sequence[IdLists]) -> Tensor:
        """Return the rows of all ids, those of the lists last ``[B·S + Σ T, width]``."""
        in_table = self._ids_in_table(ids, lists)
        if not self.row_mode:
            self._gathered = None
        if not (self.row_mode and torch.is_grad_enabled()):
            return self.storage.read(self.weight, in_table)
        readable, slots = self._gathered_rows(ids, lists, in_table)
        return readable.index_select(0, slots)

    def _gathered_rows(self, ids: Tensor, lists: Sequence[IdLists], in_table: Tensor) -> tuple[Tensor, Tensor]:
        """Return the step's readable rows ``[D, width]``, and which of them each id has."""
        if self._gathered is None or self._slots is None:
            most = self._most_distinct(len(ids), lists)
            processes = self._share.processes if self._share else SINGLE_PROCESS
            self._gathered, slots = self.storage.gather(self.weight, in_table, most, self.bounds, processes)
            self._slots = ids, lists, slots
        known, known_lists, slots = self._slots
        if not (ids is known and lists is known_lists):
            slots = self._gathered.slots_of(in_table)
        return self._gathered.readable, slots

    def _most_distinct(self, rows: int, lists: Sequence[IdLists]) -> int:
        """Return how many distinct rows of the table a batch of so many rows can look up at most."""
        count = Counter(dict.fromkeys(self._spans, 0))  # ids of each vocabulary
        for block in self.singles:
            count[block.owner] += rows
        for block in self.lists:
            count[block.owner] += len(lists[block.start].values)
        return sum(min(count[owner], size) for owner, (_, size) in self._spans.items())

    def start_row_mode(self, share: Share | None = None) -> None:
        """Gather rows in the next training pass.

        Args:
            share: This process's rows of the batch, if several processes share one.
        """
        self.row_mode, self._share, self._gathered, self._slots = True, share, None, None

    def end_row_mode(self) -> None:
        """Look up rows of the whole table again; the gathered rows stay until the next look-up."""
        self.row_mode, self._share, self._slots = False, None, None

    @property
    def gathered(self) -> GatheredRows:
        """The rows that the last training pass in row mode gathered.

        Raises:
            RuntimeError: There was no such pass.
        """
        if self._gathered is None:
            raise RuntimeError("the table has gathered no rows: there was no training pass in row mode")
        return self._gathered

    def shared_tensors(self) -> list[SharedTensor]:
        """Return the table, or the rows that the last pass gathered, with one part per feature with rows of its own."""
        return [self._as_shared()]

    def extra_repr(self) -> str:
        """Return the size of the table."""
        return f"rows={len(self.weight)}, width={self.width}, features={self.features}"

    def _as_shared(self) -> SharedTensor:
        if self._gathered is not None:
            found = self._gathered
            return SharedTensor(found.rows, len(self.bounds) - 1, found.part_of_row, found.bounds)
        if self._whole is None or self._whole[0].device != self.weight.device:
            self._whole = parts_of(torch.arange(len(self.weight), device=self.weight.device), self.bounds)
        return SharedTensor(self.weight, len(self.bounds) - 1, *self._whole)


def first_rows(sizes: Mapping[str, int], rows: int, width: int) -> Tensor:
    """Draw the initial rows of a table, ``[rows, width]``, for features of the given sizes."""
    if rows > MOST_ROWS:
        raise ValueError(
            f"a table can have at most {MOST_ROWS:,} rows, got {rows:,}: give some of {list(sizes)} another `width`"
        )
    largest = max(sizes, key=lambda name: sizes[name])
    table = f"an embedding table of {rows:,} rows × {width}, {sizes[largest]:,} of them for {largest!r}"
    with explain_oom(table, "give the feature fewer `hash_buckets`, a larger `min_count` or a smaller `width`"):
        if 4 * rows * width > available_memory():  # the system may overcommit and kill the process later
            raise MemoryError
        return torch.randn(rows, width).mul_(INITIAL_STD)
