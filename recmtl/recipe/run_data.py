"""The data that the recipe of a run names: its options, and its labelled rows. A recipe is untrusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from recmtl.data import PreparedData, Rows, encode_rows
from recmtl.data.sources.open import Data
from recmtl.data.store.format import MANIFEST
from recmtl.errors import DataError
from recmtl.io.csv_records import BadRows
from recmtl.io.untrusted import from_yaml
from recmtl.recipe.data import open_data
from recmtl.recipe.data_options import DataOptions
from recmtl.recipe.load import existing_cache
from recmtl.recipe.trust import is_data_option
from recmtl.runs.folder import REPORTED
from recmtl.schema import FittedSchema, Thinning


def data_options(recipe: str, name: str) -> DataOptions:
    """Return the data options of a recipe.

    Args:
        recipe: Its text.
        name: The name of its run in errors.

    Raises:
        DataError: It names no data, or none that may be opened.
    """
    try:
        given: Mapping[str, Any] = from_yaml(recipe)["data"]
        options = {field.name: given[field.name] for field in fields(DataOptions) if field.name in given}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the recipe of {name} names no data: {error}") from error
    if not all(is_data_option(name, value) for name, value in options.items()):
        raise DataError(f"the recipe of {name} names no data that can be opened")
    cache = existing_cache(options.pop("cache", None))
    return DataOptions(**options, cache=Path(cache) if cache else None)


def held_out_rows(options: DataOptions, schema: FittedSchema, most: int, prepare: bool) -> Rows:
    """Return the first test rows of a run, or else its first validation rows.

    Raw files are read no further than needed.

    Args:
        options: The data options of its recipe.
        schema: The schema that its training rows were fitted with.
        most: The largest number of rows.
        prepare: Whether the data may be prepared again for rows that were held out of the training file.

    Raises:
        DataError: They cannot be read.
        SchemaError: They are rows of another schema.
    """
    prepared = options.train is not None and (Path(options.train) / MANIFEST).is_file()
    for split in () if prepared else REPORTED:
        place = options.rows(split)  # type: ignore[arg-type]
        if place is not None:
            thinning = options.thinning.of(split) if options.thinning else None
            return first_rows(schema, place, most, options.bad_rows, thinning, split)
    if not (prepared or prepare):
        raise DataError("its only ones were held out of the training file")
    data = PreparedData.open(options.train) if prepared and options.train else open_data(options)
    if data.schema.fingerprint != schema.fingerprint:
        raise DataError("the data that the recipe names has changed since the training")
    found = next((data.splits[split] for split in REPORTED if split in data.splits), None)
    if found is None:
        raise DataError("the run has neither test nor validation rows")
    return Rows(schema, found.table.slice(0, most), found.name, found.thinning)


def first_rows(
    schema: FittedSchema,
    data: Data,
    most: int,
    bad_rows: BadRows = "error",
    thinning: Thinning | None = None,
    name: str = "given",
) -> Rows:
    """Return the first labelled raw rows, encoded.

    Raises:
        DataError: A file is missing or empty, or has a value that does not parse.
        SchemaError: A column is missing.
    """
    parts: list[Rows] = []
    for part in encode_rows(schema, data, bad_rows=bad_rows, note=lambda _: None, thinning=thinning):
        parts.append(part)
        if sum(map(len, parts)) >= most:
            break
    return Rows(schema, pa.concat_tables([p.table for p in parts]).slice(0, most), name, parts[0].thinning)
