"""Pretrained vectors: from a file into the rows of their categories."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from recmtl.data import DataError
from recmtl.data.columns.categorical import lookup
from recmtl.data.columns.values import Codes, Floats, as_numbers, as_text
from recmtl.data.sources.base import Source
from recmtl.data.sources.open import open_sources
from recmtl.errors import BadValueError, unreadable
from recmtl.features.embedding_table import EmbeddingTable
from recmtl.schema import Categorical, FittedSchema, IdBlock
from recmtl.schema.fitted import FIRST
from recmtl.schema.text_format import TextFormat


def check_pretrained(names: Iterable[str], schema: FittedSchema) -> None:
    """Check that all names are those of categorical features with a vocabulary of their own."""
    for name in names:
        if name not in schema.vocabularies:
            able = ", ".join(schema.vocabularies) or "none"
            raise ValueError(f"`pretrained` must name features with a vocabulary of their own ({able}), got {name!r}")


def load_vectors(table: EmbeddingTable, block: IdBlock, file: str | Path, schema: FittedSchema) -> float:
    """Load the vectors of a file into the embedding rows of a feature.

    The first column has categories, the others one number of the vectors each, or one column has them all as lists.

    Returns:
        The share of the feature's categories that have a vector.
    """
    name, seen = block.name, np.zeros(block.size, np.int64)
    (feature,) = (f for f in schema.schema.features if isinstance(f, Categorical) and f.name == name)
    for source in open_sources(Path(file), text=TextFormat(nulls=schema.schema.nulls).with_all_numbers):
        offset = 0
        try:
            for batch in source.batches(source.columns, frozenset(source.columns[1:])):
                values, codes = as_text(batch.column(0), source.columns[0])
                places = np.append(lookup(schema, feature, values), 0)[codes]
                vectors = _vectors(batch, source, table.width)
                known = places >= FIRST
                _count_vectors(seen, places[known], source, schema.vocabularies[name])
                table.put_rows(block, torch.from_numpy(places[known]), torch.from_numpy(vectors[known]))
                offset += batch.num_rows
        except BadValueError as bad:
            bad.row += offset
            raise source.fault(bad) from None
        except (OSError, pa.ArrowException) as error:
            raise unreadable(source.name, error) from error
    if not seen.any():
        raise DataError(f"{file} has no vector for any category of feature {name!r}")
    return float(seen.sum() / len(schema.vocabularies[name]))


def _vectors(batch: pa.RecordBatch, source: Source, width: int) -> Floats:
    """Return the vectors of a batch, ``[rows, width]``."""
    column, found = batch.column(batch.num_columns - 1), batch.num_columns - 1
    listed = found == 1 and pa.types.is_nested(column.type)
    if listed:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        found = int(lengths[(lengths != width).argmax()]) if len(lengths) else width
    if found != width:
        raise DataError(f"{source.name} must have vectors of {width} numbers, the width of the embeddings, got {found}")
    if not listed:
        return np.column_stack([_complete_numbers(batch.column(c), c) for c in source.columns[1:]])
    try:
        return _complete_numbers(pc.list_flatten(column), source.columns[1]).reshape(-1, width)
    except BadValueError as bad:
        bad.row //= width
        raise


def _complete_numbers(column: pa.Array, name: str) -> Floats:
    """Return a column as numbers; none may be missing."""
    values = as_numbers(column, name)
    gaps = np.isnan(values)
    if gaps.any():
        row = int(gaps.argmax())
        raise BadValueError(row, name, column[row].as_py(), "a number")
    return values


def _count_vectors(seen: Codes, places: Codes, source: Source, vocabulary: pa.Array) -> None:
    """Count the vectors of each category; a second one is an error."""
    np.add.at(seen, places, 1)
    if (seen > 1).any():
        raise DataError(f"{source.name} has the category {vocabulary[int(seen.argmax()) - FIRST].as_py()!r} twice")
