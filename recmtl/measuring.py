"""The commands that measure and predict."""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path

import pyarrow.parquet as pq

from recmtl.console import Counter, print_line, print_metrics
from recmtl.data import PreparedData, Rows, encode_rows
from recmtl.data.files import new_file
from recmtl.data.prepared import MANIFEST
from recmtl.data.skipped import BadRows
from recmtl.recipe import load_run
from recmtl.schema.location import public_name


def evaluate_command(
    run: Path, rows: str, json: bool = False, trust: Sequence[str] = (), bad_rows: BadRows = "error"
) -> None:
    """Measure the best weights of a run on labelled rows.

    Args:
        run: The run folder.
        rows: Raw files as `prepare` takes them, or a prepared dataset, of which the test rows are taken.
        json: Print JSON instead of a table.
        trust: Modules whose classes the run's recipe may name, beside those of recmtl and torch.
        bad_rows: What becomes of rows that do not parse: the first is an error, or all are left out and counted.
    """
    trainer = load_run(run, trust)
    prepared = prepared_rows(rows)
    if prepared is None:
        with Counter() as counter:
            prepared = trainer.encode(rows, counter, bad_rows, counter.remark)
    metrics = trainer.measure(prepared)
    if json:
        print_line(dumps({name: m.to_dict() for name, m in metrics.items()}, indent=1))
    else:
        print_metrics(metrics, f"{run} on {public_name(rows)}")


def predict_command(run: Path, rows: str, out: Path, trust: Sequence[str] = (), bad_rows: BadRows = "error") -> None:
    """Predict with the best weights of a run: Parquet with the keys, and a probability per task.

    Args:
        run: The run folder.
        rows: Raw files as `prepare` takes them, labels are not needed; or a prepared dataset, of which the test rows
            are taken.
        out: The Parquet file to write.
        trust: Modules whose classes the run's recipe may name, beside those of recmtl and torch.
        bad_rows: What becomes of rows that do not parse: the first is an error, or all are left out and counted.
    """
    trainer = load_run(run, trust)
    writer: pq.ParquetWriter | None = None
    count = 0
    with Counter() as counter, new_file(out) as partial:
        prepared = prepared_rows(rows)
        raw = encode_rows(trainer.model.schema, rows, False, counter, bad_rows, counter.remark)
        for part in raw if prepared is None else [prepared]:
            table = trainer.predict_table(part)
            writer = writer or pq.ParquetWriter(partial, table.schema)
            writer.write_table(table)
            count += len(part)
        if writer:
            writer.close()
    print_line(f"{count:,} predictions in {out}")


def prepared_rows(rows: str) -> Rows | None:
    """Give the test rows of a prepared dataset, ``None`` where the rows are raw files."""
    return PreparedData.open(rows).test if (Path(rows) / MANIFEST).is_file() else None
