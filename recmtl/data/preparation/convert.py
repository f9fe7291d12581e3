"""Raw rows, batch by batch, from all sources of a split."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.timestamps import calendar_ids
from recmtl.data.columns.values import as_integers, as_lists, as_numbers, as_text
from recmtl.data.preparation.fit import label_column, weight_column
from recmtl.data.sources.bad_rows import BadRowCounter, Checks
from recmtl.data.sources.base import Source
from recmtl.errors import BadValueError, DataError, unreadable
from recmtl.io.prefetch import prefetch
from recmtl.schema import Categorical, MultiCategorical, Schema, Timestamp

T = TypeVar("T")
RowNumbers: TypeAlias = npt.NDArray[np.int64]


def convert(
    schema: Schema,
    sources: list[Source],
    use: Callable[[pa.RecordBatch, RowNumbers], T],
    skipped: BadRowCounter | None = None,
    integer_keys: Collection[str] = (),
    threads: int = 1,
) -> Iterator[T]:
    """Read the schema's columns of several sources and convert them batch by batch, in threads of its own.

    Args:
        schema: The resolved schema.
        sources: Where the rows come from.
        use: Converts a batch, given the number of each of its rows, all sources together.
        skipped: Counts the rows that do not parse, which are then left out; ``None`` makes the first of them an error.
        integer_keys: The carried columns that must hold integers.
        threads: How many batches are converted at the same time; one where `use` depends on the batches before.

    Raises:
        DataError: A file cannot be read, or a value does not parse; the message says where it stands.
    """
    numbers = {f.name for f in schema.numbers} | set(schema.labels)
    numbers |= {schema.weight} if schema.weight else set()
    total = used = 0

    def jobs(source: Source) -> Iterator[Callable[[], T]]:
        nonlocal total, used
        columns = [c for c in schema.columns if c in source.columns]
        checks = _checks(schema, columns, integer_keys)
        offset = 0
        for batch in source.batches(columns, frozenset(numbers), skipped.add if skipped else None):
            rows = np.arange(total, total + batch.num_rows)
            bad = _at(offset, skipped.bad, batch, checks, offset) if skipped else np.zeros(batch.num_rows, np.bool_)
            if not bad.all():
                yield partial(_at, offset, use, batch.filter(pa.array(~bad)) if bad.any() else batch, rows[~bad])
            used += int((~bad).sum())
            offset, total = offset + batch.num_rows, total + batch.num_rows

    for source in sources:
        try:
            yield from prefetch(jobs(source), threads)
        except BadValueError as bad_value:
            raise source.fault(bad_value, 0) from None
        except (OSError, pa.ArrowException) as error:
            raise unreadable(source.name, error) from error
        if skipped:
            skipped.finish(source)
    if used == 0:
        nothing = f"there are no rows in {', '.join(s.name for s in sources)}"
        raise DataError("; ".join([nothing, *(skipped.notes() if skipped else ())]))


def _at(offset: int, use: Callable[..., T], *arguments: Any) -> T:
    """Do something with a batch; a bad value is given the number of its row in the source."""
    try:
        return use(*arguments)
    except BadValueError as bad:
        bad.row += offset
        raise


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
