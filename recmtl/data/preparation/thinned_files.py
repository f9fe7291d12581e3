"""Thinned files: which splits were thinned, and whether their labels look like it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from recmtl.data.store.format import LABELS, SPLIT_NAMES, to_matrix
from recmtl.errors import DataError
from recmtl.schema import Schema, Thinning

ENOUGH = 100  # rows of each sort in a split, so that its share of negative rows says something


def thinned_splits(thinning: Thinning, schema: Schema, files: Collection[str], holdout: bool) -> Thinning | None:
    """Return the thinning with its labels and all thinned splits named; ``None`` at the rate 1.

    Rows held out are as thin as their file.

    Args:
        thinning: The thinning, as given.
        schema: The resolved schema.
        files: The files that are given, by split.
        holdout: Whether validation rows are held out of the training file.

    Raises:
        DataError: A thinned file is not given.
        SchemaError: The labels do not fit the schema.
    """
    found = thinning.resolve(schema)
    if found is None:
        return None
    for name in found.thinned:
        if name not in files:
            raise DataError(f"`thinned` names the {name} file, but there is none: it is one of {', '.join(files)}")
    return replace(found, thinned=(*found.thinned, "valid")) if holdout and "train" in found.thinned else found


class NegativeShares:
    """Counts the negative rows of each split, to note splits that look thinned but are not said to be, or reversely."""

    def __init__(self, schema: Schema, thinning: Thinning) -> None:
        self._schema, self._thinning = schema, thinning
        self._rows, self._negative = Counter[str](), Counter[str]()

    def counted(self, encoded: Iterable[tuple[str, pa.RecordBatch]]) -> Iterator[tuple[str, pa.RecordBatch]]:
        """Yield splits and encoded batches as they come, and count their rows."""
        for split, batch in encoded:
            columns = to_matrix(batch.column(LABELS)).astype(np.float64).T
            labels = dict(zip(self._schema.labels, columns, strict=True))
            self._rows[split] += batch.num_rows
            self._negative[split] += int((self._thinning.sampling_weight(labels) > 1).sum())
            yield split, batch

    def merge(self, later: NegativeShares) -> None:
        """Add the counts of other rows."""
        self._rows.update(later._rows)
        self._negative.update(later._negative)

    def notes(self) -> Iterator[str]:
        """Yield a sentence on what was thinned, and one on each split whose labels contradict it."""
        thinned, rate = self._thinning.thinned, self._thinning.negative_rate
        what = f"rows without {' or '.join(self._thinning.negative_labels)}"
        names = ", ".join(split for split in SPLIT_NAMES if split in thinned)
        yield f"{what} are taken as kept at the rate {rate:g} in {names}"
        odds = {
            split: negative / (self._rows[split] - negative)
            for split, negative in self._negative.items()
            if min(negative, self._rows[split] - negative) >= ENOUGH
        }
        for split in odds if "train" in odds else ():
            change = math.log(odds[split] / odds["train"]) / math.log(rate)  # 1 if only this split was thinned
            said = (split in thinned) - ("train" in thinned)
            other = said - 1 if split in thinned else said + 1
            if split != "train" and abs(change - other) < abs(change - said):
                shares = " and ".join(f"{self._negative[s] / self._rows[s]:.1%} of {s}" for s in ("train", split))
                taken = "thinned" if split in thinned else "not thinned"
                yield f"{what} are {shares}, as if `thinned` were wrong on {split}, which is taken as {taken}"
