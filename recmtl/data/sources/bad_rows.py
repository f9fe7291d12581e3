"""Skip and count rows with values that do not parse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.sources.base import Source
from recmtl.errors import BadValueError
from recmtl.io.csv_records import MAX_EXAMPLES, left_out

Checks: TypeAlias = Mapping[str, Callable[[pa.RecordBatch], object]]


class BadRowCounter:
    """Counts skipped rows and remembers where the first of them are: at most so many examples."""

    def __init__(self, most: int = MAX_EXAMPLES) -> None:
        self.rows, self._most = 0, most
        self.examples: list[str] = []
        self._finished = 0  # rows skipped in earlier sources
        self._bad_values: dict[int, BadValueError] = {}

    def add(self) -> None:
        """Count a record skipped by its source."""
        self.rows += 1

    def bad(self, batch: pa.RecordBatch, checks: Checks, offset: int) -> npt.NDArray[np.bool_]:
        """Find and count the rows of a batch that fail a check ``[rows]``, `offset` rows after the source's first."""
        bad = np.zeros(batch.num_rows, np.bool_)
        errors: dict[int, BadValueError] = {}
        for column, check in checks.items():
            while not bad.all():
                rest, values = np.flatnonzero(~bad), batch.select([column])
                try:
                    check(values.take(pa.array(rest)) if bad.any() else values)
                    break
                except BadValueError as error:
                    if error.mask is None:
                        error.row = int(rest[error.row])
                        raise
                    failed = rest[error.mask]
                    bad[failed] = True
                    errors |= dict.fromkeys(failed[: self._most].tolist(), error)
        self.rows += int(bad.sum())
        for row in np.flatnonzero(bad)[: self._most - len(self.examples) - len(self._bad_values)]:
            shared = errors[int(row)]  # with the value of the first row
            value = batch.column(shared.column)[int(row)].as_py()
            self._bad_values[offset + int(row)] = BadValueError(0, shared.column, value, shared.expected)
        return bad

    def finish(self, source: Source) -> None:
        """Add examples of the rows skipped in a source that has been read to its end."""
        missing = min(self._most - len(self.examples), self.rows - self._finished)
        self.examples += islice(source.reasons(self._bad_values), missing)
        self._finished, self._bad_values = self.rows, {}

    @property
    def missing(self) -> int:
        """How many examples more it remembers."""
        return self._most - len(self.examples)

    def merge(self, later: BadRowCounter) -> None:
        """Add the rows skipped in later sources."""
        self.rows += later.rows
        self.examples += later.examples[: self.missing]

    def notes(self) -> list[str]:
        """Return the number of skipped rows and examples; empty if none was skipped."""
        return left_out(self.rows, self.examples)
