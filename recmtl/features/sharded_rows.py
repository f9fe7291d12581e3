"""Rows of an embedding table that are spread over processes: each of them holds a part of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from recmtl.balance.distributed import ProcessGroup
from recmtl.balance.row_exchange import exchange_rows
from recmtl.features.row_places import RowPlaces
from recmtl.features.table_rows import GatheredRows, TableRows, parts_of

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class Route:
    """Which rows the processes ask each other for in a look-up.

    Args:
        asked: The ids of this process's rows that each process asks for, those for process 0 first, int32.
        given: How many rows each process asks this one for.
        taken: How many rows this process asks each one for.
        slots: Where each of this process's distinct ids is among the rows that it takes, int64.
    """

    asked: Tensor
    given: list[int]
    taken: list[int]
    slots: Tensor


class ShardedRows(TableRows):
    """Rows that are spread over processes: the weight of each holds those at its places, in their order.

    A look-up is a message to all other processes: all of them look up together, each the rows of its own batch. A
    process asks the owner of each distinct id that it has for the row, and on the way back its gradient is added up
    there, so that the owner alone has and updates the whole gradient.

    Args:
        rows: The number of rows of the whole table.
        processes: The processes.

    Attributes:
        processes: The processes.
        places: Where the rows lie.
    """

    def __init__(self, rows: int, processes: ProcessGroup) -> None:
        self.processes = processes
        self.places = RowPlaces(rows, processes.size, processes.rank)
        self._mesh: DeviceMesh | None = None

    def read(self, weight: Tensor, ids: Tensor) -> Tensor:
        """Return the rows of ids, without a gradient.

        Raises:
            RuntimeError: The weight would be trained by this look-up.
        """
        if torch.is_grad_enabled() and weight.requires_grad:
            raise RuntimeError(
                "a table that is spread over processes is trained by the rows that a step gathers: train it by the "
                "trainer, or look it up under `torch.no_grad()`"
            )
        distinct, inverse = torch.unique(ids, return_inverse=True)  # [D], [n]
        route = self._route(weight, distinct)
        rows = self._look_up(weight, self.places.own_places_of(route.asked))
        found = self.processes.all_to_all(rows, route.given, route.taken)  # [D, width]
        return found.index_select(0, route.slots.index_select(0, inverse))

    def put(self, weight: Tensor, ids: Tensor, values: Tensor) -> None:
        """Write values to those rows of ids that this process has."""
        own = self.places.owners_of(ids) == self.processes.rank
        weight[self.places.own_places_of(ids[own]).to(weight.device)] = values[own].to(weight)

    def own_part(self, whole: Tensor) -> Tensor:
        """Return this process's part of a tensor with a row for each of the table's, by id."""
        return whole.index_select(0, self.places.own_rows().to(whole.device))

    def as_dtensor(self, own: Tensor) -> DTensor:
        """Return what all processes have of a tensor with a row for each of the table's, by place, without a copy."""
        from torch.distributed.device_mesh import DeviceMesh  # takes a second to import
        from torch.distributed.tensor import DTensor, Shard

        if self._mesh is None:
            assert self.processes.group is not None
            self._mesh = DeviceMesh.from_group(self.processes.group, own.device.type)
        shape = torch.Size([self.places.rows, *own.shape[1:]])
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(own, self._mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)

    def gather(
        self, weight: Tensor, ids: Tensor, most: int, bounds: Tensor, processes: ProcessGroup
    ) -> tuple[GatheredRows, Tensor]:
        """Gather the distinct rows of this process that any process looks up into a new leaf, and exchange them."""
        distinct, inverse = torch.unique(ids, return_inverse=True)  # [D], [n]
        route = self._route(weight, distinct)
        owned, asked = torch.unique(route.asked, return_inverse=True)  # [U], rising: a feature's rows stand together
        places = self.places.own_places_of(owned)  # [U]
        rows = self._look_up(weight, places).requires_grad_()  # [U, width]
        exchanged = exchange_rows(rows, asked, route.given, route.taken, self.processes)  # [D, width]
        parts = parts_of(owned, bounds)
        gathered = GatheredRows(places, rows, None, *parts, distinct.long(), exchanged, route.slots)
        return gathered, route.slots.index_select(0, inverse)

    def __deepcopy__(self, memo: dict[int, Any]) -> ShardedRows:
        return self  # holds no rows

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"a table that is spread over {self.processes.size} processes cannot be pickled, as each has a part of it: "
            "save it by `Trainer.save`"
        )

    def _look_up(self, weight: Tensor, places: Tensor) -> Tensor:
        """Return the rows of the weight at places, ``[n]`` to ``[n, width]``, without a gradient."""
        return weight.detach().index_select(0, places)

    def _route(self, weight: Tensor, ids: Tensor) -> Route:
        """Send distinct ids to the owners of their rows, and receive the ids that other processes request."""
        owners, each = self.places.owners_of(ids), [1] * self.processes.size  # [D]
        order = owners.argsort(stable=True)
        slots = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        counts = torch.bincount(owners, minlength=self.processes.size)  # [N]
        given, taken = self.processes.all_to_all(counts, each, each).tolist(), counts.tolist()
        asked = self.processes.all_to_all(ids.index_select(0, order), taken, given)
        return Route(asked, given, taken, slots)
