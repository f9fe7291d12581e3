"""Raw rows, batch by batch, from all sources of a split."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.ahead import prefetched
from recmtl.data.errors import BadValueError, DataError, unreadable
from recmtl.data.fit import label_column, weight_column
from recmtl.data.skipped import Checks, Skipped
from recmtl.data.source import Source
from recmtl.data.timestamps import calendar_ids
from recmtl.data.values import as_integers, as_lists, as_numbers, as_text
from recmtl.schema import Categorical, MultiCategorical, Schema, Timestamp

T = TypeVar("T")
RowNumbers: TypeAlias = npt.NDArray[np.int64]


def convert(
    schema: Schema,
    sources: list[Source],
    use: Callable[[pa.RecordBatch, RowNumbers], T],
    skipped: Skipped | None = None,
    integer_keys: Collection[str] = (),
) -> Iterator[T]:
    """Read the schema's columns of several sources and convert them batch by batch.

    Args:
        schema: The resolved schema.
        sources: Where the rows come from.
        use: Converts a batch, given the number of each of its rows, all sources together.
        skipped: Counts the rows that do not parse, which are then left out; ``None`` makes the first of them an error.
        integer_keys: The carried columns that must hold integers.

    Raises:
        DataError: A file cannot be read, or a value does not parse; the message says where it stands.
    """
    numbers = {f.name for f in schema.numbers} | set(schema.labels)
    numbers |= {schema.weight} if schema.weight else set()
    total = used = 0
    for source in sources:
        columns = [c for c in schema.columns if c in source.columns]
        checks = _checks(schema, columns, integer_keys)
        offset = 0
        try:
            batches = source.batches(columns, frozenset(numbers), skipped.add if skipped else None)
            for batch in batches if skipped else prefetched(batches):  # counts of two threads would not add up
                rows = np.arange(total + offset, total + offset + batch.num_rows)
                bad = skipped.bad(batch, checks, offset) if skipped else np.zeros(batch.num_rows, np.bool_)
                if not bad.all():
                    yield use(batch.filter(pa.array(~bad)) if bad.any() else batch, rows[~bad])
                used += int((~bad).sum())
                offset += batch.num_rows
        except BadValueError as bad_value:
            raise source.fault(bad_value, offset) from None
        except (OSError, pa.ArrowException) as error:
            raise unreadable(source.name, error) from error
        if skipped:
            skipped.finish(source)
        total += offset
    if used == 0:
        nothing = f"there are no rows in {', '.join(s.name for s in sources)}"
        raise DataError("; ".join([nothing, *(skipped.notes() if skipped else ())]))


def _checks(schema: Schema, columns: Collection[str], integer_keys: Collection[str]) -> Checks:
    """What fitting and encoding do with each column that can fail for a value."""
    lists = {f.name: f.separator for f in schema.features if isinstance(f, MultiCategorical)}
    numeric = {f.name for f in schema.numbers}
    times = {f.name: f for f in schema.features if isinstance(f, Timestamp)}
    texts = {f.name for f in schema.features if isinstance(f, Categorical)} - set(lists) | set(schema.carried)

    def check(column: str, batch: pa.RecordBatch) -> None:
        values = batch.column(column)
        if column in schema.labels:
            label_column(schema, batch, column)
        if column == schema.weight:
            weight_column(schema, batch)
        if column in numeric:
            as_numbers(values, column)
        if column in times:
            calendar_ids(values, times[column])
        if column in lists:
            as_lists(values, lists[column], column)
        if column in texts:
            text = as_text(values, column)
            if column in integer_keys:
                as_integers(*text, column)

    return {column: partial(check, column) for column in columns}
