"""Lists of ids while they are encoded: cut to the longest, never empty, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from recmtl.data.columns.values import Codes
from recmtl.schema.features import Keep
from recmtl.schema.fitted import MISSING

Ids = npt.NDArray[np.int32]


class EncodedLists(NamedTuple):
    """The ids of the rows' lists, int32 ``[T]`` one after the other, and their lengths ``[rows]``."""

    values: Ids
    lengths: Codes

    def differ(self, constant: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return which rows have another list than a constant one ``[rows]``."""
        found: npt.NDArray[np.bool_] = self.lengths != len(constant)
        starts = (np.cumsum(self.lengths) - self.lengths)[~found]
        found[~found] = (self.values[starts[:, None] + np.arange(len(constant))] != constant).any(axis=1)
        return found


def repeat_list(constant: Sequence[int], rows: int) -> EncodedLists:
    """Return the same list in every row."""
    return EncodedLists(np.tile(np.array(constant, np.int32), rows), np.full(rows, len(constant), np.int64))


def cut_lists(ids: Ids, lengths: Codes, longest: int, keep: Keep) -> EncodedLists:
    """Keep the first or last ids of each list; an empty list becomes "missing".

    Args:
        ids: The ids of all lists, one after the other ``[Σ lengths]``.
        lengths: The lengths of the lists ``[rows]``.
        longest: How many ids of a list are kept.
        keep: Which ones.
    """
    first = np.cumsum(lengths) - lengths
    place = np.arange(len(ids)) - np.repeat(first, lengths)  # of an id in its list
    if keep == "last":
        place -= np.repeat(np.maximum(lengths - longest, 0), lengths)
    kept = (place >= 0) & (place < longest)
    found = np.clip(lengths, 1, longest)
    values = np.full(int(found.sum()), MISSING, np.int32)
    starts = np.cumsum(found) - found
    values[(np.repeat(starts, lengths) + place)[kept]] = ids[kept]
    return EncodedLists(values, found)
