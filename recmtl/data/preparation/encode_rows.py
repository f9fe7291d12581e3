"""Encode raw rows by a fitted schema, such as that of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace

import pyarrow as pa

from recmtl.data.columns.variation import EncodingFindings
from recmtl.data.preparation.convert import convert
from recmtl.data.preparation.encode_batch import encode_batch
from recmtl.data.preparation.part_work import Progress
from recmtl.data.preparation.prepare import bad_row_counter
from recmtl.data.sources.open import Data, open_sources
from recmtl.data.store.prepared import Rows
from recmtl.io.csv_records import BadRows
from recmtl.schema import FittedSchema, Thinning
from recmtl.schema.text_format import TextFormat


def encode_rows(
    schema: FittedSchema,
    data: Data,
    labelled: bool = True,
    progress: Progress = lambda what, rows: None,
    bad_rows: BadRows = "error",
    note: Callable[[str], None] = warnings.warn,
    thinning: Thinning | None = None,
    text: TextFormat | None = None,
) -> Iterator[Rows]:
    """Encode raw rows by a fitted schema, a batch at a time.

    Args:
        schema: The fitted schema of a prepared dataset or a run.
        data: Rows in any form that `prepare` takes.
        labelled: Whether labels, weights and keys are required; otherwise they may be absent.
        progress: Called with what is being done and the number of rows just read.
        bad_rows: What to do with rows that do not parse, as in `prepare`.
        note: Called at the end with each sentence on rows that were left out, or that are not read as they are: lists
            that are cut, columns that no training row told apart, and numbers that no training row lacks.
        thinning: How these files were thinned; ``None`` if they were not.
        text: How text stands for values in these files; ``None`` reads them like the training rows.

    Raises:
        DataError: A file is missing, empty or has a value that does not parse.
        SchemaError: A column is missing.
    """
    read = schema if text is None else replace(schema, schema=replace(schema.schema, **vars(text)))
    skipped, thinned = bad_row_counter(bad_rows), thinning.resolve(schema.schema) if thinning else None
    sources = open_sources(data, "given", read.schema.text_format)
    optional = frozenset() if labelled else schema.schema.unfeatured
    for source in sources:
        schema.schema.resolve([*source.columns, *optional], source.name)
    findings = EncodingFindings(read, "given")

    def encode(batch: pa.RecordBatch, numbers: object) -> pa.RecordBatch:
        return encode_batch(read, batch, findings=findings)

    for batch in convert(read.schema, sources, encode, skipped, schema.integer_keys):
        progress("encode", batch.num_rows)
        yield Rows(schema, pa.Table.from_batches([batch]), thinning=thinned)
    for sentence in (*(skipped.notes() if skipped else ()), *findings.notes()):
        note(sentence)
