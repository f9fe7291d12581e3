"""Numbers of groups: a search, a session, a user."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.values import as_text


def group_numbers(column: pa.ChunkedArray, name: str) -> npt.NDArray[np.int64]:
    """Return the number of each row's group ``[rows]``; each row without a group is a group of its own.

    Args:
        column: The groups.
        name: The name of the column in errors.
    """
    values, codes = as_text(column.combine_chunks(), name)
    distinct = values.dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    found: npt.NDArray[np.int64] = np.append(distinct, -1)[codes]  # a value may appear twice among the values
    alone = found < 0
    found[alone] = found.max(initial=-1) + 1 + np.arange(alone.sum())
    return found
