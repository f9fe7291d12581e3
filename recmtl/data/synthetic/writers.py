"""Write generated rows: a CSV with a header, or in AliExpress's raw layout user and item files without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from recmtl.data.raw.aliexpress_layout import (
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
        csv_writer(folder / f"user_{split}.csv", _layout_types(USER_COLUMNS), header=False) as append_users,
        csv_writer(folder / f"item_{split}.csv", _layout_types(ITEM_COLUMNS), header=False) as append_items,
    ):

        def append(columns: Columns) -> None:
            _, first = np.unique(columns[SEARCH_ID], return_index=True)  # [searches]
            append_users({name: columns[name][first] for name in USER_COLUMNS})
            append_items({**columns, RAW_LABEL: columns[CLICK].astype(np.int64) + columns[CONVERSION].astype(np.int64)})

        yield append


@contextmanager
def csv_writer(path: Path, types: Mapping[str, pa.DataType], header: bool) -> Iterator[Append]:
    """Yield a function that appends rows to a new CSV file.

    Args:
        path: The file.
        types: The type of each column, in their order.
        header: Whether the first line names the columns.
    """
    schema = pa.schema(list(types.items()))
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    with path.open("wb") as file:
        if header:
            file.write((",".join(types) + "\n").encode())
        with pyarrow.csv.CSVWriter(file, schema, write_options=options) as writer:
            yield lambda columns: writer.write_table(pa.table([columns[name] for name in types], schema=schema))


def column_types(columns: Columns) -> dict[str, pa.DataType]:
    """Return the Arrow type of each column: floats, text, or else integers."""
    kinds = {"f": pa.float64(), "U": pa.string()}
    return {name: kinds.get(values.dtype.kind, pa.int64()) for name, values in columns.items()}


def _layout_types(names: Sequence[str]) -> dict[str, pa.DataType]:
    return {name: pa.float64() if name in NUMERICAL else pa.int64() for name in names}


WRITERS: Mapping[str, Callable[[Path, str], AbstractContextManager[Append]]] = {
    "processed": lambda folder, split: csv_writer(
        folder / f"{split}.csv", _layout_types(PROCESSED_COLUMNS), header=True
    ),
    "raw": _raw_writer,
}
