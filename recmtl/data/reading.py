"""Raw rows, batch by batch, from all sources of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import pyarrow as pa

from recmtl.data.errors import BadValueError, DataError
from recmtl.data.sources import Source, unreadable
from recmtl.schema import Numeric, Schema

T = TypeVar("T")


def convert(schema: Schema, sources: list[Source], use: Callable[[pa.RecordBatch, int], T]) -> Iterator[T]:
    """Read the schema's columns of several sources and convert them batch by batch.

    Args:
        schema: The resolved schema.
        sources: Where the rows come from.
        use: Converts a batch that has so many rows before it, all sources together.

    Raises:
        DataError: A file cannot be read, or a value does not parse; the message says where it stands.
    """
    numbers = {f.name for f in schema.features if isinstance(f, Numeric)} | set(schema.labels)
    numbers |= {schema.weight} if schema.weight else set()
    total = 0
    for source in sources:
        columns = [c for c in schema.columns if c in source.columns]
        offset = 0
        try:
            for batch in source.batches(columns, frozenset(numbers)):
                yield use(batch, total + offset)
                offset += batch.num_rows
        except BadValueError as bad:
            raise source.fault(bad, offset) from None
        except (OSError, pa.ArrowException) as error:
            raise unreadable(source.name, error) from error
        total += offset
    if total == 0:
        raise DataError(f"there are no rows in {', '.join(s.name for s in sources)}")
