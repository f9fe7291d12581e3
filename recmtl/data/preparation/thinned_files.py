"""Thinned files: which splits were thinned, and whether their labels look like it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa

from recmtl.data.store.format import LABELS, to_matrix
from recmtl.errors import DataError
from recmtl.schema import Schema, Thinning

ENOUGH = 100  # rows of each sort in a split, so that its share of negative rows says something


def thinned_splits(thinning: Thinning | None, schema: Schema, files: Collection[str], holdout: bool) -> Thinning | None:
    """Return the thinning with its labels and all thinned splits named; rows held out are as thin as their file.

    Args:
        thinning: The thinning; ``None`` if no file was thinned.
        schema: The resolved schema.
        files: The files that are given, by split.
        holdout: Whether validation rows are held out of the training file.

    Raises:
        DataError: A thinned file is not given.
        SchemaError: The labels do not fit the schema.
    """
    found = thinning.resolve(schema) if thinning else None
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

    def notes(self) -> Iterator[str]:
        """Yield a sentence on what was thinned, and one on each split that contradicts it."""
        found, rate = self._thinning, self._thinning.negative_rate
        what = f"rows without {' or '.join(found.negative_labels)}"
        yield f"{what} are taken as kept at the rate {rate:g} in the {' and '.join(found.thinned)} rows"
        enough = [s for s, n in self._negative.items() if min(n, self._rows[s] - n) >= ENOUGH]
        odds = {split: self._negative[split] / (self._rows[split] - self._negative[split]) for split in enough}
        first = odds.get("train")
        if first is None:
            return
        for split in enough:
            thin, thin_first = split in found.thinned, "train" in found.thinned
            if thin != thin_first and abs(np.log(odds[split] / first)) < abs(np.log(rate)) / 2:
                share = ", ".join(f"{self._negative[s] / self._rows[s]:.1%} of the {s} rows" for s in ("train", split))
                said, other = ("thinned", "not") if thin else ("not thinned", "thinned")
                yield f"{what} are {share}, though the {split} file is {said} and the train file {other}: see `thinned`"
