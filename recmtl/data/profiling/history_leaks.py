"""Find histories that hold their row's own item because its action is already in them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recmtl.data.profiling.leaks import ENOUGH
from recmtl.data.store.format import IDS, to_matrix
from recmtl.data.store.prepared import Rows
from recmtl.schema import Categorical, IdBlock
from recmtl.schema.fitted import FIRST

OFTEN = 0.5  # of the rows with the action end with their own item; people who repeat themselves do so less often,
TIMES = 5  # and as often in rows without the action


def history_notes(rows: Rows) -> Iterator[str]:
    """Yield a note on each history that ends with the row's own item far more often where a label is 1.

    Such a history was written after the row: its last item is the one that is to be predicted. The items of rows
    without a history or of unknown category do not count.
    """
    blocks = rows.schema.id_blocks
    if not rows.schema.list_blocks or not rows.schema.id_columns or not len(rows):
        return
    lists = rows.lists()
    ids = np.concatenate([to_matrix(chunk) for chunk in rows.table[IDS].chunks])
    for history in rows.schema.list_blocks:
        values, offsets = (tensor.numpy() for tensor in lists[history.start])
        last = values[offsets[1:] - 1]  # [rows]
        for item in (block for block in blocks if is_item_of(history, block)):
            own = ids[:, item.start]
            counted = (own >= FIRST) & (last >= FIRST)
            for label in rows.schema.schema.labels:
                label_is = rows.labels[label]
                with_action, without = (counted & (label_is == value) for value in (1, 0))
                if min(with_action.sum(), without.sum()) < ENOUGH or label not in rows.schema.schema.binary_labels:
                    continue
                often, else_often = ((last == own)[which].mean() for which in (with_action, without))
                if often >= OFTEN and often >= TIMES * else_often:
                    yield (
                        f"history {history.name!r} ends with the row's own {item.name!r} in {often:.1%} of the "
                        f"{with_action.sum():,} training rows with {label!r} and in {else_often:.1%} of the others: "
                        f"is it written before the {label}?"
                    )


def is_item_of(history: IdBlock, block: IdBlock) -> bool:
    """Return whether a block has one item per row of the vocabulary of a history."""
    return not block.listed and isinstance(block.feature, Categorical) and block.owner == history.owner
