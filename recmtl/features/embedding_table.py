"""One flat embedding table for all features of one width."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from recmtl.balance.distributed import SINGLE_PROCESS, ProcessGroup
from recmtl.balance.shared import SharedTensor
from recmtl.data import IdLists, Share
from recmtl.features.growth import RowOrigins, table_origins
from recmtl.features.row_places import RowPlaces
from recmtl.features.sharded_rows import ShardedRows
from recmtl.features.sharding import new_rows
from recmtl.features.table_rows import GatheredRows, parts_of
from recmtl.schema import FittedSchema, IdBlock, MultiCategorical

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


PLACES = "places"  # in a state, which rows of a table that is spread over processes its weight has


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

    The rows may be spread over processes (`sharded_tables`, `shard`): `weight` and the `state_dict` then have those of
    this process, and all processes look up together. Such a table is trained in row mode alone.

    Attributes:
        storage: Where the rows lie.
        rows: The number of rows of the whole table.
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
        self.rows = int(sizes.sum())
        self.storage, weight = new_rows({name: size for (name, _), size in owned.items()}, self.rows, width)
        self.storage.put(weight, starts, torch.zeros(len(starts), width))
        self.weight = nn.Parameter(weight)
        self._spans = {owner: (int(start), size) for start, (owner, size) in zip(starts, owned.items(), strict=True)}
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
        """Return the rows of a feature, ``[size, width]``; a view of the table unless it is spread over processes."""
        start, size = self._spans[block.owner]
        if self.sharded:
            return self.storage.read(self.weight.detach(), torch.arange(start, start + size))
        return self.weight.detach().narrow(0, start, size)

    def put_rows(self, block: IdBlock, ids: Tensor, values: Tensor) -> None:
        """Write rows of a feature, ``[ids, width]``; of a table that is spread over processes, those of this one."""
        self.storage.put(self.weight.detach(), ids + self._spans[block.owner][0], values)

    @property
    def sharded(self) -> bool:
        """Whether the rows are spread over processes."""
        return isinstance(self.storage, ShardedRows)

    def shard(self, processes: ProcessGroup, storage_class: type[ShardedRows] = ShardedRows) -> None:
        """Spread the rows of the whole table over processes, which all call it: keep those of this process."""
        storage = storage_class(self.rows, processes)
        own = storage.own_part(self.weight.detach())
        self.weight, self.storage = nn.Parameter(own, self.weight.requires_grad), storage

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.sharded:
            destination[f"{prefix}{PLACES}"] = torch.tensor(self._own_places)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load a weight; of one with all rows, by their ids, a table that is spread takes its part."""
        found = state_dict.pop(f"{prefix}{PLACES}", None)
        if found is not None and tuple(found.tolist()) != self._own_places:
            rest[-1].append(
                f"{prefix}weight has the rows at places {found.tolist()} of a table that is spread over processes, "
                f"expected those at {[*self._own_places]}: load a run folder, which has all"
            )
            return
        whole = state_dict.get(f"{prefix}weight")
        if isinstance(self.storage, ShardedRows) and isinstance(whole, Tensor) and len(whole) == self.rows:
            state_dict[f"{prefix}weight"] = self.storage.own_part(whole)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def as_dtensor(self, own: Tensor) -> DTensor:
        """Return what all processes have of a tensor with a row for each of the table's, by place, without a copy.

        Args:
            own: This process's part, with a row for each of its `weight`.
        """
        assert isinstance(self.storage, ShardedRows)
        return self.storage.as_dtensor(own)

    @property
    def _own_places(self) -> tuple[int, int]:
        """The first place of the rows of the weight, and that after the last one."""
        start = self.storage.places.start if isinstance(self.storage, ShardedRows) else 0
        return start, start + len(self.weight)

    @property
    def own_ids(self) -> Tensor:
        """The ids of the rows of the weight, int64."""
        if isinstance(self.storage, ShardedRows):
            return self.storage.places.own_rows().to(self.weight.device)
        return torch.arange(self.rows, device=self.weight.device)

    def ids_at(self, start: int, stop: int) -> Tensor:
        """Return the ids of the rows at places from `start` up to `stop`, as tables are kept in files, int64."""
        return RowPlaces(self.rows, 1, 0).own_rows(start, stop)

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
        origins = table_origins(list(self._spans), old, new)
        if isinstance(self.storage, ShardedRows):
            origins = origins.of(self.storage.places.own_rows())
        return {"weight": origins}

    @property
    def owners(self) -> list[str]:
        """The features with rows of their own, in the order of the rows."""
        return [".".join(filter(None, owner)) for owner in self._spans]

    def owners_of(self, marked: Tensor) -> set[str]:
        """Return the features of those rows of the weight that are marked, bool ``[rows of the weight]``."""
        ids = marked.nonzero().flatten().cpu()
        if isinstance(self.storage, ShardedRows):
            ids = self.storage.places.rows_at(ids + self.storage.places.start)
        names = self.owners
        return {names[part] for part in torch.bucketize(ids, self.bounds[1:-1].cpu(), right=True).tolist()}

    def by_owner(self, whole: Tensor) -> tuple[Tensor, ...]:
        """Split a tensor shaped like the table by feature."""
        return torch.split(whole, [size for _, size in self._spans.values()])

    def gradient_norms(self) -> Tensor:
        """Return a norm of each feature's part of the last gradient, ``[owners]``; not finite if the part is not.

        Of a table that is spread over processes it is that of this process's rows.
        """
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
        part = f", own={len(self.weight)}" if self.sharded else ""
        return f"rows={self.rows}, width={self.width}, features={self.features}{part}"

    def _as_shared(self) -> SharedTensor:
        if self._gathered is not None:
            found = self._gathered
            return SharedTensor(found.rows, len(self.bounds) - 1, found.part_of_row, found.bounds, found.exchanged)
        if self.sharded:
            return SharedTensor(self.weight, len(self.bounds) - 1, self.bounds.new_zeros(()).expand(len(self.weight)))
        if self._whole is None or self._whole[0].device != self.weight.device:
            self._whole = parts_of(torch.arange(len(self.weight), device=self.weight.device), self.bounds)
        return SharedTensor(self.weight, len(self.bounds) - 1, *self._whole)


def spread_tables(model: nn.Module) -> dict[str, EmbeddingTable]:
    """Return the tables of a model by name whose rows are spread over processes."""
    return {n: m for n, m in model.named_modules() if isinstance(m, EmbeddingTable) and m.sharded}
