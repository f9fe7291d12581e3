"""The `predict` command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from recmtl.cli.console import RowCounter, print_line, silence_others
from recmtl.cli.evaluate import note_of_thinning, prepared_rows
from recmtl.data import encode_rows
from recmtl.data.sources.open import open_sources
from recmtl.errors import UsageError, counted
from recmtl.evaluate import Predictions
from recmtl.io.joining import MINUTES
from recmtl.io.location import public_name
from recmtl.io.output import check_free
from recmtl.io.partitions import Partitions
from recmtl.io.table_writer import TableWriter, check_suffix
from recmtl.recipe.load import load_run
from recmtl.recipe.row_options import ALL_ROWS, RowOptions
from recmtl.recipe.short_options import NO_OPTIONS
from recmtl.schema import Schema, Thinning
from recmtl.schema.text_format import TextFormat
from recmtl.train.distributed import process_group


def predict_command(
    run: Path,
    rows: str,
    out: str,
    trust: Sequence[str] = (),
    timeout: float = MINUTES,
    reading: RowOptions = ALL_ROWS,
    text: Mapping[str, Any] = NO_OPTIONS,
) -> None:
    """Predict with the best weights of a run, and write keys, labels and predictions.

    Several processes of torchrun predict the rows in shares, and the first writes them; tables that were spread over
    processes are spread over these.

    Args:
        run: The run folder.
        rows: Raw files, with or without labels, or a prepared dataset, whose test rows are taken.
        out: The file to write, which must not exist yet: Parquet, CSV or Arrow by its suffix, on disk or at a URI such
            as `s3://bucket/predictions.parquet`.
        trust: A further module whose classes the run's recipe may name; may be repeated.
        timeout: Minutes that processes started by torchrun wait for each other.
        reading: Which rows are read, and how they were thinned.
        text: How text in these files is read, where it differs from the training rows of the run.
    """
    with process_group(timeout) as processes, silence_others(processes):
        processes.in_first(lambda: check_free(out))
        check_suffix(out)
        count = _predict(run, rows, out if processes.first else None, trust, reading, text)
        print_line(f"{counted(count, 'prediction')} in {public_name(out)}")


def _predict(
    run: Path, rows: str, out: str | None, trust: Sequence[str], reading: RowOptions, text: Mapping[str, Any]
) -> int:
    """Predict rows, write the predictions in the process that names a file, and return their number."""
    given, thinning = reading.place(rows), reading.thinning
    trainer = load_run(run, trust)
    schema = trainer.model.schema
    form = replace(schema.schema.text_format, **text)
    count = 0
    with RowCounter() as counter, TableWriter(out) if out is not None else nullcontext() as writer:
        prepared = prepared_rows(given, thinning, text)
        present = common_columns(given, form) if prepared is None else schema.schema.unfeatured
        if prepared is None and any(label in present for label in schema.schema.labels):
            note_of_thinning(schema.thinning, thinning)
        check_labels(thinning, schema.schema, present, rows)
        raw = encode_rows(schema, given, False, counter, reading.bad_rows, counter.print_notes, thinning, form)
        for part in raw if prepared is None else [prepared]:
            for table in trainer.predictor.shares(part).map(lambda share: only_columns(share, present)).tables():
                if writer is not None:
                    writer.write(table)
            count += len(part)
    return count


def check_labels(thinning: Thinning | None, schema: Schema, present: frozenset[str], rows: str) -> None:
    """Check that the rows have the labels by which thinned rows are weighted."""
    found = thinning.resolve(schema) if thinning else None
    missing = [label for label in (found.negative_labels if found else ()) if label not in present]
    if missing:
        raise UsageError(f"{rows!r} has no column {missing[0]!r}, by which `--negative_rate` weights its rows")


def common_columns(rows: str | Partitions, text: TextFormat) -> frozenset[str]:
    """Return the columns that all raw files have."""
    found = [frozenset(source.columns) for source in open_sources(rows, "given", text)]
    return frozenset.intersection(*found)


def only_columns(predictions: Predictions, present: frozenset[str]) -> Predictions:
    """Drop labels and weights that the rows do not have."""
    labels = {name: values for name, values in predictions.labels.items() if name in present}
    weight = predictions.weight if predictions.schema.weight in present else None
    own = {name: values for name, values in predictions.task_weights.items() if name in present}
    return replace(predictions, labels=labels, weight=weight, task_weights=own)
