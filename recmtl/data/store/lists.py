"""Lists of ids: the values of all rows one after the other, without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

SPARE = -1  # a value that belongs to no row


class IdLists(NamedTuple):
    """The ids of a multi-valued feature in B rows.

    Args:
        values: int32 ``[T]``, row by row; after the last row there may be spare values, so that batches have one shape.
        offsets: int64 ``[B + 1]``, the place of each row's first value, then that after the last row.
    """

    values: Tensor
    offsets: Tensor

    @classmethod
    def of_lengths(cls, values: Tensor, lengths: Tensor) -> IdLists:
        """Return the lists of rows with the given lengths, int64 ``[B]``."""
        return cls(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))

    def rows(self, start: int, end: int) -> IdLists:
        """Return a range of rows. Waits for the device."""
        offsets = self.offsets[start : end + 1]
        first, last = offsets[[0, -1]].tolist()
        return IdLists(self.values[first:last], offsets - first)

    def take(self, order: Tensor, sizes: tuple[int, int] | None = None) -> IdLists:
        """Return rows in an order, int64 ``[n]``.

        Args:
            order: The rows.
            sizes: How many values they have, and how many the result has, spare ones among them; ``None`` counts them,
                which waits for the device.
        """
        starts = self.offsets.index_select(0, order)  # [n]
        lengths = self.offsets.index_select(0, order + 1) - starts
        offsets = IdLists.of_lengths(self.values, lengths).offsets
        found, capacity = sizes or (int(offsets[-1]),) * 2
        shifts = torch.repeat_interleave(starts - offsets[:-1], lengths, output_size=found)  # [T]
        values = self.values.index_select(0, shifts + torch.arange(found, device=shifts.device))
        return IdLists(torch.nn.functional.pad(values, (0, capacity - found), value=SPARE), offsets)

    def to(self, device: torch.device | str) -> IdLists:
        """Copy the lists to a device."""
        return IdLists(self.values.to(device), self.offsets.to(device))

    @property
    def nbytes(self) -> int:
        """The bytes of both tensors."""
        return self.values.nbytes + self.offsets.nbytes

    @classmethod
    def joined(cls, parts: Sequence[IdLists]) -> IdLists:
        """Return the rows of all parts, none of which has spare values."""
        lengths = torch.cat([part.offsets.diff() for part in parts])
        return cls.of_lengths(torch.cat([part.values for part in parts]), lengths)
