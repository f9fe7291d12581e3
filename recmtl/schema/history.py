"""The days that a fitted schema was fitted on: rows and files, and the categories that were rare or not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os.path import abspath

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ages = npt.NDArray[np.int64]
COUNTS = pa.schema([("category", pa.large_string()), ("count", pa.int64())])
HISTORY_LAYOUT = pa.schema([("feature", pa.string()), ("category", pa.large_string()), ("number", pa.int64())])
MOST_WAITING = 1 << 20  # categories of one vocabulary whose counts are kept


@dataclass(frozen=True, eq=False)
class FitHistory:
    """The days that a fitted schema was fitted on. It changes no encoding.

    Args:
        rows: The number of training rows.
        files: The name of each training file by its digest, the oldest first.
        parents: The fingerprints of the schemas that it extends, the oldest first.
        ages: For each vocabulary how many continuations ago each of its categories was last seen ``[categories]``; a
            vocabulary without an entry was fitted on the last day.
        waiting: For each vocabulary the categories too rare so far, and their counts: at most `MOST_WAITING`, the most
            frequent ones.
    """

    rows: int = 0
    files: Mapping[str, str] = field(default_factory=dict)
    parents: tuple[str, ...] = ()
    ages: Mapping[str, Ages] = field(default_factory=dict)
    waiting: Mapping[str, pa.Table] = field(default_factory=dict)

    def seen(self, split: str, files: Mapping[str, str]) -> Iterator[str]:
        """Yield a note for each file that is among the training files, whose metrics then say nothing of new rows.

        Args:
            split: What the files are, such as ``test``.
            files: Their names by their digests.
        """
        for digest, name in files.items():
            if digest in self.files:
                named = f"{name}{self.first_name(digest, name)}"
                yield (
                    f"the model was trained on the {split} rows of {named}: their metrics do not say how good "
                    "it is on new rows"
                )

    def first_name(self, digest: str, name: str) -> str:
        """Return in brackets under which name a file was trained on, if under another one."""
        first = self.files[digest]
        return "" if abspath(first) == abspath(name) else f" (as {first})"

    def age(self, name: str, size: int) -> Ages:
        """Return the age of each of `size` categories of a vocabulary."""
        return self.ages.get(name, np.zeros(size, np.int64))


def read_tables(batches: list[pa.RecordBatch]) -> tuple[dict[str, Ages], dict[str, pa.Table]]:
    """Return the ages and the waiting categories in the batches of the file of a history."""
    ages: dict[str, Ages] = {}
    waiting: dict[str, pa.Table] = {}
    for batch in batches:
        if not batch.num_rows:
            continue
        name = batch.column(0)[0].as_py()
        if batch.column(1).null_count:
            ages[name] = batch.column(2).to_numpy(zero_copy_only=False).astype(np.int64)
        else:
            waiting[name] = pa.table([batch.column(1), batch.column(2)], schema=COUNTS)
    return ages, waiting


def most_frequent(counts: pa.Table, most: int = MOST_WAITING) -> pa.Table:
    """Return the most frequent categories of a table of counts, ties in the order of text."""
    kept = counts.sort_by([("count", "descending"), ("category", "ascending")]).slice(0, most)
    return kept.select(COUNTS.names).cast(COUNTS).combine_chunks()
