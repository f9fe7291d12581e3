"""A batch: what a model reads and what its losses are measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from recmtl.data.store.lists import IdLists


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """What a model reads and what its losses are measured on.

    Args:
        ids: int32 ``[B, id columns]``, each feature's own indices.
        numeric: float32 ``[B, numeric columns]``, the features, their missing indicators, then label rates.
        labels: float32 ``[B, labels]``, NaN where a label is missing.
        weight: float32 ``[B]``, or ``None`` if all rows count the same.
        share: The place of these rows in a batch that several processes share; ``None`` if they are all of it.
        sampling_weight: float32 ``[B]``, how many rows of the file before it was thinned each row stands for; ``None``
            if it was not thinned.
        lists: The ids of each multi-valued feature, in the order of the features.
        task_weights: float32 ``[B, columns]``, the weights of single tasks' rows, in the order of the schema's
            `task_weights`; ``None`` if no task has any.
        groups: int32 ``[B]``, the number of each row's group, whose rows stand one after the other; ``None`` if the
            batch was not cut between groups.
        largest_group: The most rows of a group in any batch, where there are `groups`.
    """

    ids: Tensor
    numeric: Tensor
    labels: Tensor
    weight: Tensor | None = None
    share: Share | None = None
    sampling_weight: Tensor | None = None
    lists: tuple[IdLists, ...] = ()
    task_weights: Tensor | None = None
    groups: Tensor | None = None
    largest_group: int = 0

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __repr__(self) -> str:
        tensors = {name: getattr(self, name) for name in BY_ROW}
        tensors |= {f"list {number}": own.values for number, own in enumerate(self.lists)}
        shapes = [f"{name} {list(tensor.shape)}" for name, tensor in tensors.items() if tensor is not None]
        part = f" of {len(self.whole):,}" if self.share else ""
        return f"Batch({len(self):,}{part} rows; {', '.join(shapes)}; {self.labels.device})"

    @property
    def whole(self) -> Batch:
        """The batch that these rows are a share of, or the batch itself."""
        return self.share.of if self.share else self

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All tensors in one order, ``None`` for those that it lacks."""
        return (*(getattr(self, name) for name in BY_ROW), *(tensor for own in self.lists for tensor in own))

    def mapped(self, rows: Callable[[Tensor], Tensor], lists: Callable[[IdLists], IdLists]) -> Batch:
        """Return a whole batch of the results of two functions, of each tensor that has a row per row, and list."""
        found: dict[str, Any] = {name: None if (own := getattr(self, name)) is None else rows(own) for name in BY_ROW}
        return Batch(**found, lists=tuple(lists(own) for own in self.lists), largest_group=self.largest_group)

    def part(self, rank: int, world_size: int, rows: slice | None = None) -> Batch:
        """Return the rows of one of the processes that share this batch; a single process has all of it.

        Args:
            rank: The rank of the process.
            world_size: The number of processes.
            rows: The rows; ``None`` takes as many as any other process has.
        """
        if world_size == 1:
            return self
        own = rows or slice(*(len(self) * place // world_size for place in (rank, rank + 1)))
        part = self.mapped(lambda tensor: tensor[own], lambda ids: ids.rows(own.start, own.stop))
        return replace(part, share=Share(self, own))


BY_ROW = ("ids", "numeric", "labels", "weight", "sampling_weight", "task_weights", "groups")


class Share(NamedTuple):
    """The rows of a batch that belong to one process.

    Args:
        of: The whole batch.
        rows: Their range in it.
    """

    of: Batch
    rows: slice
