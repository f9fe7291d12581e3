"""Raw files to a prepared dataset: fit on the training rows, encode every split, keep what both learned."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc as ipc

from recmtl.data.encode import Encoder
from recmtl.data.errors import BadValueError, DataError
from recmtl.data.files import new_folder
from recmtl.data.fit import Fitter
from recmtl.data.prepared import MANIFEST, VERSION, PreparedData, Rows
from recmtl.data.sources import Data, Source, open_sources, unreadable
from recmtl.data.spool import Spooled
from recmtl.data.values import as_text, stable_hash
from recmtl.schema import FittedSchema, Schema

Progress = Callable[[str, int], None]  # what is being done, and how many rows more it has done
T = TypeVar("T")


def prepare(
    schema: Schema,
    train: Data,
    valid: Data | None = None,
    test: Data | None = None,
    out: str | Path | None = None,
    holdout: float = 0.1,
    progress: Progress = lambda what, rows: None,
) -> PreparedData:
    """Turn raw data into a prepared dataset.

    Two passes over the training data: the first fits vocabularies, statistics and label rates, the second encodes. Text
    is parsed in the first alone: what it gave lies meanwhile in a temporary file in `out`, about as large as the text.
    Without validation data a share of the training groups (of the rows, where the schema has no group), chosen by a
    stable hash, is held out of fitting and training.

    Args:
        schema: What the columns mean; patterns are resolved by the training file's header.
        train: Training rows: a file, glob, folder, list of these, DataFrame or Arrow table.
        valid: Validation rows.
        test: Test rows: encoded, never learned from.
        out: The folder to write, which must not exist yet; ``None`` keeps the dataset in memory. A folder appears
            whole or not at all.
        holdout: The share of the training groups to hold out when there is no validation data.
        progress: Called with what is being done and the number of rows just read.

    Raises:
        DataError: A file is missing, empty or has a value that does not parse, or `out` exists.
        SchemaError: A column is missing.
    """
    if not 0 <= holdout < 1:
        raise DataError(f"`holdout` must be in [0, 1), got {holdout}")
    given = {"train": train, "valid": valid, "test": test}
    sources = {name: open_sources(data, name) for name, data in given.items() if data is not None}
    resolved = schema.resolve(sources["train"][0].columns, sources["train"][0].name)
    for source in chain.from_iterable(sources.values()):
        resolved.resolve(source.columns, source.name)
    fold = Fold(resolved, 0.0 if valid is not None else holdout)
    if out is None:
        with tempfile.TemporaryDirectory() as parsed:
            fitted, notes, encoded = _read(resolved, sources, fold, Path(parsed), progress)
            batches: dict[str, list[pa.RecordBatch]] = {}
            for name, batch in encoded:
                batches.setdefault(name, []).append(batch)
        splits = {name: Rows(fitted, pa.Table.from_batches(parts), name) for name, parts in batches.items()}
        return PreparedData(fitted, splits, tuple(notes))
    with new_folder(Path(out)) as folder, tempfile.TemporaryDirectory(dir=folder) as parsed:
        _write(folder, *_read(resolved, sources, fold, Path(parsed), progress))
    return PreparedData.open(out)


def encode_rows(
    schema: FittedSchema, data: Data, labelled: bool = True, progress: Progress = lambda what, rows: None
) -> Iterator[Rows]:
    """Encode raw rows by a fitted schema, a batch at a time.

    Args:
        schema: The fitted schema of a prepared dataset or a run.
        data: Rows in any form that `prepare` takes.
        labelled: Whether labels, weights and keys must be there; otherwise those that are not are missing.
        progress: Called with what is being done and the number of rows just read.

    Raises:
        DataError: A file is missing, empty or has a value that does not parse.
        SchemaError: A column is missing.
    """
    sources, encoder = open_sources(data, "given"), Encoder(schema)
    optional = frozenset() if labelled else schema.schema.unfeatured
    for source in sources:
        schema.schema.resolve([*source.columns, *optional], source.name)
    for batch in convert(schema.schema, sources, lambda batch, row: encoder.encode(batch)):
        progress("encode", batch.num_rows)
        yield Rows(schema, pa.Table.from_batches([batch]))


def convert(schema: Schema, sources: list[Source], use: Callable[[pa.RecordBatch, int], T]) -> Iterator[T]:
    """Read the schema's columns of several sources and convert them batch by batch.

    Args:
        schema: The resolved schema.
        sources: Where the rows come from.
        use: Converts a batch that has so many rows before it, all sources together.

    Raises:
        DataError: A file cannot be read, or a value does not parse; the message says where it stands.
    """
    numbers = {f.name for f in schema.numbers} | set(schema.labels)
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


class Fold:
    """Says which training rows are held out, the same in every pass.

    Args:
        schema: The resolved schema; its group decides, or the row's number where there is none.
        share: The share to hold out.
    """

    def __init__(self, schema: Schema, share: float) -> None:
        self._group, self.share = schema.group, share

    def mask(self, batch: pa.RecordBatch, offset: int) -> npt.NDArray[np.bool_]:
        """Give the held-out rows of a batch that has `offset` rows before it ``[rows]``."""
        hashes = stable_hash(np.arange(offset, offset + batch.num_rows))
        if self._group is not None:
            values, codes = as_text(batch.column(self._group), self._group)
            grouped = codes >= 0
            hashes[grouped] = stable_hash(values)[codes[grouped]]
        held_out: npt.NDArray[np.bool_] = hashes < self.share * 2.0**64
        return held_out


def _read(
    schema: Schema, sources: Mapping[str, list[Source]], fold: Fold, parsed: Path, progress: Progress
) -> tuple[FittedSchema, list[str], Iterator[tuple[str, pa.RecordBatch]]]:
    """Fit on the training rows, and give the encoded batches of every split; parsed text is kept in `parsed`."""
    train = [
        Spooled(source, parsed / f"{number}.arrows") if source.parses else source
        for number, source in enumerate(sources["train"])
    ]
    fitted, notes = _fit(schema, train, fold, progress)
    return fitted, notes, _encode(fitted, {**sources, "train": train}, fold, progress)


def _fit(schema: Schema, sources: list[Source], fold: Fold, progress: Progress) -> tuple[FittedSchema, list[str]]:
    fitter, total = Fitter(schema), 0

    def use(batch: pa.RecordBatch, row: int) -> int:
        kept = np.flatnonzero(~fold.mask(batch, row)) if fold.share else np.arange(batch.num_rows)
        try:
            fitter.add(batch.take(pa.array(kept)) if len(kept) < batch.num_rows else batch)
        except BadValueError as bad:
            bad.row = int(kept[bad.row])
            raise
        return int(batch.num_rows)

    for rows in convert(schema, sources, use):
        total += rows
        progress("fit", rows)
    if fitter.rows == 0:
        raise DataError("every training row fell into the held-out share: give a validation file or more rows")
    fitted, notes = fitter.finish()
    if fold.share and fitter.rows == total:
        notes.append("no training row fell into the held-out share: there are no validation rows")
    return fitted, notes


def _encode(
    fitted: FittedSchema, sources: Mapping[str, list[Source]], fold: Fold, progress: Progress
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Encode every split, batch by batch: its name and its rows."""
    encoder = Encoder(fitted)

    def divide(batch: pa.RecordBatch, row: int) -> dict[str, pa.RecordBatch]:
        encoded, held_out = encoder.encode(batch), fold.mask(batch, row)
        return {"train": encoded.filter(pa.array(~held_out)), "valid": encoded.filter(pa.array(held_out))}

    def whole(name: str, batch: pa.RecordBatch, row: int) -> dict[str, pa.RecordBatch]:
        return {name: encoder.encode(batch)}

    for name, split in sources.items():
        for parts in convert(fitted.schema, split, divide if name == "train" and fold.share else partial(whole, name)):
            progress("encode", sum(batch.num_rows for batch in parts.values()))
            yield from ((part, rows) for part, rows in parts.items() if rows.num_rows)


def _write(folder: Path, fitted: FittedSchema, notes: list[str], batches: Iterator[tuple[str, pa.RecordBatch]]) -> None:
    """Write schema, splits and manifest into a folder."""
    writers: dict[str, ipc.RecordBatchFileWriter] = {}
    rows: dict[str, int] = {}
    try:
        for name, batch in batches:
            if name not in writers:
                writers[name] = ipc.new_file(str(folder / f"{name}.arrow"), batch.schema)
            writers[name].write_batch(batch)
            rows[name] = rows.get(name, 0) + batch.num_rows
    finally:
        for writer in writers.values():
            writer.close()
    fitted.save(folder)
    manifest = {
        "version": VERSION,
        "fingerprint": fitted.fingerprint,
        "splits": {name: {"file": f"{name}.arrow", "rows": count} for name, count in rows.items()},
        "notes": notes,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
