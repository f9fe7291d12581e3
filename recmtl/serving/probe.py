"""Rows generated from a fitted schema: what an exported model is checked with, free of any training row."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from recmtl.io.spellings import TICKS
from recmtl.schema import (
    Binned,
    Categorical,
    FittedSchema,
    MultiCategorical,
    Numeric,
    Timestamp,
)

MISSING_SHARE = UNSEEN_SHARE = 0.1  # of the values
LONGER = 3  # elements of a list beyond those that are kept
FIRST_TIME, LAST_TIME = 1_577_836_800, 1_893_456_000  # 2020 to 2029, in seconds

Columns: TypeAlias = dict[str, list[Any]]


def probe_columns(schema: FittedSchema, rows: int, seed: int = 0) -> Columns:
    """Return generated values of each feature, as JSON can hold them.

    Among them are categories that no training row has, missing values, empty and overlong lists, and numbers beyond the
    training rows. They come from the vocabularies and ranges of the schema.

    Args:
        schema: The fitted schema.
        rows: The number of rows.
        seed: Seeds the values.
    """
    generator = np.random.default_rng(seed)
    columns = {}
    for feature in schema.schema.features:
        if isinstance(feature, MultiCategorical):
            values = _lists(schema, feature, rows, generator)
        elif isinstance(feature, Categorical):
            values = _categories(schema, feature, rows, generator)
        elif isinstance(feature, Timestamp):
            values = _times(feature, rows, generator)
        else:
            values = _numbers(schema, feature, rows, generator)
        missing = generator.random(rows) < MISSING_SHARE
        columns[feature.name] = [None if lacks else value for lacks, value in zip(missing, values, strict=True)]
    return columns


def probe_table(schema: FittedSchema, columns: Columns) -> pa.Table:
    """Return columns of `probe_columns` as a table."""
    types = {f.name: _type(f) for f in schema.schema.features}
    return pa.table({name: pa.array(values, types[name]) for name, values in columns.items()})


def probe_rows(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return columns as one dict for each row."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _type(feature: object) -> pa.DataType:
    if isinstance(feature, MultiCategorical):
        return pa.list_(pa.string())
    if isinstance(feature, Numeric | Binned):
        return pa.float64()
    return pa.int64() if isinstance(feature, Timestamp) and feature.format in TICKS else pa.string()


def _categories(schema: FittedSchema, feature: Categorical, count: int, generator: np.random.Generator) -> list[Any]:
    vocabulary = schema.vocabularies.get(schema.schema.owner(feature).name)
    known = generator.integers(0, len(vocabulary) if vocabulary is not None and len(vocabulary) else 1, count)
    unseen = generator.random(count) < (UNSEEN_SHARE if vocabulary is not None and len(vocabulary) else 1)
    new = [str(number) for number in generator.integers(10**11, 10**12, count)]
    found = new if vocabulary is None or not len(vocabulary) else vocabulary.take(pa.array(known)).to_pylist()
    return [other if is_unseen else value for is_unseen, other, value in zip(unseen, new, found, strict=True)]


def _lists(schema: FittedSchema, feature: MultiCategorical, rows: int, generator: np.random.Generator) -> list[Any]:
    lengths = generator.integers(0, schema.lengths[feature.name] + LONGER + 1, rows)
    lengths[generator.random(rows) < MISSING_SHARE] = 0
    values = _categories(schema, feature, int(lengths.sum()), generator)
    ends = lengths.cumsum()
    return [values[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def _numbers(schema: FittedSchema, feature: Numeric | Binned, rows: int, generator: np.random.Generator) -> list[Any]:
    low, high = schema.ranges.get(feature.name, (-1.0, 1.0))
    beyond = 0.1 * (high - low) or 1.0
    values = generator.uniform(low - beyond, high + beyond, rows)
    edges = np.asarray(schema.quantiles.get(feature.name, ()), np.float64)
    if len(edges):
        at_edge = generator.random(rows) < 0.5
        values[at_edge] = generator.choice(edges, int(at_edge.sum()))
    found: list[Any] = values.tolist()
    return found


def _times(feature: Timestamp, rows: int, generator: np.random.Generator) -> list[Any]:
    seconds = generator.integers(FIRST_TIME, LAST_TIME, rows).tolist()
    ticks = TICKS.get(feature.format or "")
    if ticks:
        return [second * ticks for second in seconds]
    times = [datetime.fromtimestamp(second, UTC) for second in seconds]
    return [time.strftime(feature.format or "%Y-%m-%dT%H:%M:%S") for time in times]
