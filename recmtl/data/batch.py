"""A batch: what a model reads and what its losses are measured on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from recmtl.balance.distributed import ProcessGroup
from recmtl.data.store.lists import IdLists


@dataclass(frozen=True, slots=True, repr=False)
class Batch:
    """What a model reads and what its losses are measured on.

    Args:
        ids: int32 ``[B, id columns]``, each feature's own indices.
        numeric: float32 ``[B, numeric columns]``, the features, their missing indicators, then label rates.
        labels: float32 ``[B, labels]``, NaN where a label is missing.
        weight: float32 ``[B]``, or ``None`` if all rows count the same.
        share: What is known of the batch that several processes share, of which these are the rows of one; ``None`` if
            they are all of it.
        sampling_weight: float32 ``[B]``, how many rows of the file before it was thinned each row stands for; ``None``
            if it was not thinned.
        lists: The ids of each multi-valued feature, in the order of the features.
        task_weights: float32 ``[B, columns]``, the weights of single tasks' rows, in the order of the schema's
            `task_weights`; ``None`` if no task has any.
        groups: int32 ``[B]``, the number of each row's group; the rows of a group are consecutive. ``None`` if groups
            were not kept together.
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
        part = f" of {self.total_rows:,}" if self.share else ""
        return f"Batch({len(self):,}{part} rows; {', '.join(shapes)}; {self.labels.device})"

    @property
    def total_rows(self) -> int:
        """The number of rows of all processes that share the batch."""
        return self.share.rows if self.share else len(self)

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """All tensors in one order, ``None`` for those that it lacks."""
        return (*(getattr(self, name) for name in BY_ROW), *(tensor for own in self.lists for tensor in own))

    def mapped(self, rows: Callable[[Tensor], Tensor], lists: Callable[[IdLists], IdLists]) -> Batch:
        """Return a whole batch of the results of two functions, of each tensor that has a row per row, and list."""
        found: dict[str, Any] = {name: None if (own := getattr(self, name)) is None else rows(own) for name in BY_ROW}
        return Batch(**found, lists=tuple(lists(own) for own in self.lists), largest_group=self.largest_group)

    def part(self, processes: ProcessGroup) -> Batch:
        """Return the rows of this process of a batch that all processes have; a single process keeps all of it.

        Args:
            processes: The processes that share the batch: each gets as many rows as any other, or one more.
        """
        if processes.size == 1:
            return self
        own = slice(*(len(self) * place // processes.size for place in (processes.rank, processes.rank + 1)))
        part = self.mapped(lambda tensor: tensor[own], lambda ids: ids.rows(own.start, own.stop))
        return replace(part, share=Share(len(self), processes))


BY_ROW = ("ids", "numeric", "labels", "weight", "sampling_weight", "task_weights", "groups")


class Share(NamedTuple):
    """What a process knows of a batch of which it has a part.

    Args:
        rows: The number of rows of the whole batch.
        processes: The processes that share it.
    """

    rows: int
    processes: ProcessGroup
