"""Options on the rows that a finished run reads: which of them, and how they were thinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recmtl.io.csv_records import BadRows
from recmtl.io.partitions import Partitions
from recmtl.recipe.data_options import partitions
from recmtl.schema import Thinning
from recmtl.schema.thinning import thinning_of


@dataclass(frozen=True)
class RowOptions:
    """How rows are read.

    Args:
        bad_rows: What to do with rows that do not parse.
        thinning: How raw files were thinned; ``None`` if they were not.
        since: The first day of the rows.
        until: The last day.
        date_key: The key of the folders of days.
    """

    bad_rows: BadRows = "error"
    thinning: Thinning | None = None
    since: str | None = None
    until: str | None = None
    date_key: str | None = None

    def place(self, rows: str) -> str | Partitions:
        """Return where the rows are: a place, or the chosen days in it."""
        return partitions(rows, self.since, self.until, self.date_key)


ALL_ROWS = RowOptions()


def row_options(
    bad_rows: BadRows = "error",
    negative_rate: float = 1.0,
    negative_label: Sequence[str] | None = None,
    since: str | None = None,
    until: str | None = None,
    date_key: str | None = None,
) -> RowOptions:
    """Return how rows are read.

    Args:
        bad_rows: What to do with rows that do not parse: stop at the first, or skip and count them.
        negative_rate: The share of negative rows that was kept in these files, if they were thinned. Prepared rows and
            predictions of a run know it themselves.
        negative_label: A label column; a row is negative if none of those named is 1 in it, by default none of all
            binary labels. May be repeated.
        since: The first day of these rows (`2024-01-01`), if they are a folder of folders named like
            `date=2024-01-01`; a month or an hour (`2024-01-01T05`) is a bound as well.
        until: The last day of these rows, which is included.
        date_key: The key of these folders, `date` in `date=2024-01-01`; by default the only one with dates.
    """
    return RowOptions(bad_rows, thinning_of(negative_rate, negative_label or ()), since, until, date_key)
