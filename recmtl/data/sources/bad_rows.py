"""Rows that are left out of the data because a value does not parse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.sources.base import Source
from recmtl.errors import BadValueError, DataError

EXAMPLES = 5

BadRows: TypeAlias = Literal["error", "skip"]
Checks: TypeAlias = Mapping[str, Callable[[pa.RecordBatch], object]]


class BadRowCounter:
    """Counts the rows that are left out, and says where the first of them stand."""

    def __init__(self) -> None:
        self.rows = 0
        self.examples: list[str] = []
        self._finished = 0  # rows left out of the sources before this one
        self._faults: dict[int, BadValueError] = {}

    def add(self) -> None:
        """Count a record that its source has left out."""
        self.rows += 1

    def bad(self, batch: pa.RecordBatch, checks: Checks, offset: int) -> npt.NDArray[np.bool_]:
        """Find and count the rows of a batch that a check refuses ``[rows]``.

        Args:
            batch: The rows.
            checks: What is to be done with each column, for its errors alone.
            offset: The number of rows of the source before the batch.

        Raises:
            BadValueError: A whole column is at fault.
        """
        bad = np.zeros(batch.num_rows, np.bool_)
        first: dict[int, BadValueError] = {}
        for column, check in checks.items():
            while not bad.all():
                left, values = np.flatnonzero(~bad), batch.select([column])
                try:
                    check(values.take(pa.array(left)) if bad.any() else values)
                    break
                except BadValueError as fault:
                    if fault.mask is None:
                        fault.row = int(left[fault.row])
                        raise
                    refused = left[fault.mask]
                    bad[refused] = True
                    first |= dict.fromkeys(refused[:EXAMPLES].tolist(), fault)
        self.rows += int(bad.sum())
        for row in np.flatnonzero(bad)[: EXAMPLES - len(self.examples) - len(self._faults)]:
            shared = first[int(row)]
            self._faults[offset + int(row)] = _alone(batch.slice(row, 1), shared, checks[shared.column])
        return bad

    def finish(self, source: Source) -> None:
        """Find the places of the first rows that were left out of a source."""
        wanted = min(EXAMPLES - len(self.examples), self.rows - self._finished)
        self.examples += islice(source.reasons(self._faults), wanted)
        self._finished, self._faults = self.rows, {}

    def notes(self) -> list[str]:
        """Say how many rows were left out and where the first of them stand; nothing where none was."""
        if not self.rows:
            return []
        count = f"{self.rows:,} bad rows were" if self.rows > 1 else "1 bad row was"
        return [f"{count} left out", *(f"left out: {example}" for example in self.examples)]


def _alone(row: pa.RecordBatch, fault: BadValueError, check: Callable[[pa.RecordBatch], object]) -> BadValueError:
    """Give what a check says of a row that it refuses among others."""
    try:
        check(row)
    except BadValueError as own:
        return own
    return BadValueError(0, fault.column, row.column(fault.column)[0].as_py(), fault.expected)


def counter(bad_rows: BadRows) -> BadRowCounter | None:
    """Give what counts rows to leave out, ``None`` where a bad row is an error.

    Raises:
        DataError: There is no such choice.
    """
    if bad_rows not in get_args(BadRows):
        raise DataError(f"`bad_rows` must be 'error' or 'skip', got {bad_rows!r}")
    return BadRowCounter() if bad_rows == "skip" else None
