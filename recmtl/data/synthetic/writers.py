"""Write generated rows in the AliExpress layouts: one CSV with a header, or user and item files without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from recmtl.data.sources.aliexpress_layout import (
    CLICK,
    CONVERSION,
    ITEM_COLUMNS,
    NUMERICAL,
    PROCESSED_COLUMNS,
    RAW_LABEL,
    SEARCH_ID,
    USER_COLUMNS,
)
from recmtl.data.synthetic.truth import Columns

Append = Callable[[Columns], None]  # appends whole searches, given by column name


@contextmanager
def _raw_writer(folder: Path, split: str) -> Iterator[Append]:
    """Yield a function that appends rows to new files in the raw layout, `user_<split>.csv` and `item_<split>.csv`."""
    with (
        _csv_writer(folder / f"user_{split}.csv", USER_COLUMNS, header=False) as append_users,
        _csv_writer(folder / f"item_{split}.csv", ITEM_COLUMNS, header=False) as append_items,
    ):

        def append(columns: Columns) -> None:
            _, first = np.unique(columns[SEARCH_ID], return_index=True)  # [searches]
            append_users({name: columns[name][first] for name in USER_COLUMNS})
            append_items({**columns, RAW_LABEL: columns[CLICK].astype(np.int64) + columns[CONVERSION].astype(np.int64)})

        yield append


@contextmanager
def _csv_writer(path: Path, names: Sequence[str], header: bool) -> Iterator[Append]:
    schema = pa.schema([(name, pa.float64() if name in NUMERICAL else pa.int64()) for name in names])
    with path.open("wb") as file:
        if header:
            file.write((",".join(names) + "\n").encode())
        with pyarrow.csv.CSVWriter(
            file, schema, write_options=pyarrow.csv.WriteOptions(include_header=False)
        ) as writer:
            yield lambda columns: writer.write_table(pa.table([columns[name] for name in names], schema=schema))


WRITERS: Mapping[str, Callable[[Path, str], AbstractContextManager[Append]]] = {
    "processed": lambda folder, split: _csv_writer(folder / f"{split}.csv", PROCESSED_COLUMNS, header=True),
    "raw": _raw_writer,
}
