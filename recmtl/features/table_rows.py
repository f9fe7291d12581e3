"""Where the rows of an embedding table lie, and how a look-up reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from recmtl.balance.distributed import ProcessGroup

OTHER_IDS = (
    "a table in row mode looks up ids that the step's first look-up did not have: look up all ids of the batch first"
)


class GatheredRows(NamedTuple):
    """The rows of a table that a forward pass in row mode has gathered."""

    places: Tensor  # int64 [U], positions in the table's weight
    rows: Tensor  # [U, width], a leaf
    source: Tensor | None  # the row that each one repeats, as in `DistinctIds`
    part_of_row: Tensor  # [U], the feature of each row
    bounds: Tensor  # [features + 1], the first row of each feature, and U
    ids: Tensor  # int64 [D], the ids in the table that can be looked up, in rising order
    exchanged: Tensor | None = None  # [D, width], what this process reads of rows that are spread over processes
    slots: Tensor | None = None  # int64 [D], where each of the ids is in `exchanged`

    @property
    def readable(self) -> Tensor:
        """The rows that look-ups read, ``[D, width]``."""
        return self.rows if self.exchanged is None else self.exchanged

    def slots_of(self, ids: Tensor) -> Tensor:
        """Return which of the readable rows each id has; ids that were not gathered are an error."""
        found = torch.searchsorted(self.ids, ids.long()).clamp(max=len(self.ids) - 1)
        among = self.ids[found] == ids
        torch._assert_async(among.all(), OTHER_IDS)  # does not wait for the device
        return found if self.slots is None else self.slots[found]

    def put(self, whole: Tensor, rows: Tensor) -> None:
        """Write values of the rows ``[U, width]`` to their positions in ``[rows of the weight, width]``."""
        whole.index_copy_(0, self.places, rows if self.source is None else rows.index_select(0, self.source))


class TableRows(ABC):
    """Where the rows of an embedding table lie, and how a look-up reads them.

    An id counts from the table's first row, whatever the feature; `weight` is what this process has of the table.
    """

    def check(self, weight: Tensor) -> None:  # noqa: B027
        """Check that the rows of a weight can be looked up; before a training, as its type may change until then."""

    @abstractmethod
    def read(self, weight: Tensor, ids: Tensor) -> Tensor:
        """Return the rows of ids, ``[n]`` to ``[n, width]``."""

    @abstractmethod
    def put(self, weight: Tensor, ids: Tensor, values: Tensor) -> None:
        """Write values ``[n, width]`` to the rows of different ids ``[n]``, as far as the weight has them."""

    @abstractmethod
    def gather(
        self, weight: Tensor, ids: Tensor, most: int, bounds: Tensor, processes: ProcessGroup
    ) -> tuple[GatheredRows, Tensor]:
        """Gather the distinct rows of ids into a new leaf.

        Args:
            weight: What this process has of the table.
            ids: The ids, int32 ``[n]``.
            most: The largest number of distinct ids that there can be.
            bounds: The first id of each feature, and the number of rows, ``[features + 1]``.
            processes: The processes that share the batch, whose ids these are a part of.

        Returns:
            The gathered rows, and which of the readable ones each id has, int64 ``[n]``.
        """


class ReplicatedRows(TableRows):
    """The weight of every process holds all rows, in the order of their ids."""

    def read(self, weight: Tensor, ids: Tensor) -> Tensor:
        """Return the rows of ids, with the gradient of the whole weight."""
        # On a CPU the backward of index_select is the fastest one for repeated ids, with int64.
        return weight.index_select(0, ids.long())

    def put(self, weight: Tensor, ids: Tensor, values: Tensor) -> None:
        """Write values to the rows of ids."""
        weight[ids.to(weight.device)] = values.to(weight)

    def gather(
        self, weight: Tensor, ids: Tensor, most: int, bounds: Tensor, processes: ProcessGroup
    ) -> tuple[GatheredRows, Tensor]:
        """Gather the distinct rows of the ids of all processes into a new leaf."""
        distinct, inverse, source = distinct_ids(ids, most) if processes.size == 1 else joint_ids(ids, processes)
        rows = weight.detach().index_select(0, distinct).requires_grad_()  # [U, width]
        return GatheredRows(distinct, rows, source, *parts_of(distinct, bounds), distinct), inverse


def parts_of(ids: Tensor, bounds: Tensor) -> tuple[Tensor, Tensor]:
    """Return the feature of each of rising ids, of which the last one may repeat, and the first place of each."""
    return torch.bucketize(ids, bounds[1:-1], right=True), torch.searchsorted(ids, bounds)


class DistinctIds(NamedTuple):
    """The distinct ids of a batch, one per slot; all are int64.

    Spare slots repeat the last one in use, all others themselves.
    """

    ids: Tensor  # [slots]
    inverse: Tensor  # the slot of each id, shaped like the ids
    source: Tensor | None = None  # [slots], the slot that each slot repeats; `None` without spare slots


def distinct_ids(ids: Tensor, most: int) -> DistinctIds:
    """Find the distinct ids; on other devices than a CPU with `padded`, which does not wait for the device."""
    if ids.device.type != "cpu":
        return padded(ids, most)
    index, inverse = torch.unique(ids, return_inverse=True)
    return DistinctIds(index.long(), inverse)


def joint_ids(ids: Tensor, processes: ProcessGroup) -> DistinctIds:
    """Find the distinct ids of all processes, each of which finds its own and learns those of the others."""
    own, inverse = torch.unique(ids, return_inverse=True)
    index = torch.unique(torch.cat(processes.all_gather(own)))
    return DistinctIds(index.long(), torch.searchsorted(index, own)[inverse])


def padded(ids: Tensor, most: int) -> DistinctIds:
    """Find the distinct ids in `most` slots, some of them spare, so that no shape depends on a value.

    Args:
        ids: The ids, of any shape; int32 ones have half as many bits to sort as int64.
        most: The largest number of distinct ids that there can be.

    Example:
        >>> slots, inverse, source = padded(torch.tensor([7, 3, 7, 7, 7]), most=3)
        >>> slots, inverse, source
        (tensor([3, 7, 7]), tensor([1, 0, 1, 1, 1]), tensor([0, 1, 1]))
    """
    ordered, order = ids.flatten().sort()  # [N]
    slots = order.new_zeros(len(order))  # [N], of the ordered ids
    torch.cumsum(ordered[1:] > ordered[:-1], 0, out=slots[1:])
    inverse = torch.empty_like(slots).scatter_(0, order, slots)
    index = ordered[-1:].repeat(most).scatter_(0, slots, ordered)  # equal ids write the same
    source = torch.arange(most, device=ids.device).minimum(slots[-1])
    return DistinctIds(index.long(), inverse.view(ids.shape), source)
