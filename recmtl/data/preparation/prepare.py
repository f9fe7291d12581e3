"""Turn raw rows into a prepared dataset: fit on the training rows, then encode every split."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl.data.columns.categorical import encode_ids
from recmtl.data.columns.classes import class_codes
from recmtl.data.columns.id_lists import Ids
from recmtl.data.columns.numeric import encode_numbers
from recmtl.data.columns.values import as_integers, as_text
from recmtl.data.columns.variation import OTHER_CLASS, EncodingFindings
from recmtl.data.preparation.convert import RowNumbers, convert, group_hashes, label_column, weight_column
from recmtl.data.preparation.fit import Fitter
from recmtl.data.preparation.label_rates import FoldCounts, encode_label_rates
from recmtl.data.preparation.thinned_files import NegativeShares, thinned_splits
from recmtl.data.sources.bad_rows import BadRowCounter
from recmtl.data.sources.base import Source, spool_parsed
from recmtl.data.sources.open import Data, digests, open_sources
from recmtl.data.store.format import (
    KEY_PREFIX,
    LABELS,
    NUMERIC,
    TASK_WEIGHTS,
    WEIGHT,
    from_matrix,
    id_columns,
    shard_file,
    to_matrix,
    write_manifest,
    write_shards,
)
from recmtl.data.store.prepared import PreparedData, Rows
from recmtl.errors import BadValueError, DataError
from recmtl.io.csv_records import BadRows, skips
from recmtl.io.files import new_folder
from recmtl.schema import FittedSchema, Schema, Thinning
from recmtl.schema.extend import Extendable, extended_schema, open_extension
from recmtl.schema.serialization import save_fitted

ENCODERS = 2  # batches encoded at the same time

Progress = Callable[[str, int], None]  # the activity, and how many rows it has just done


def prepare(
    schema: Schema | None,
    train: Data,
    valid: Data | None = None,
    test: Data | None = None,
    out: str | Path | None = None,
    holdout: float = 0.1,
    progress: Progress = lambda what, rows: None,
    bad_rows: BadRows = "error",
    thinning: Thinning | None = None,
    extend: Extendable | None = None,
) -> PreparedData:
    """Turn raw data into a prepared dataset.

    Two passes over the training data: the first fits vocabularies, statistics and label rates, the second encodes; one
    in between counts the labels of each id if a feature has `label_rates`. Text is parsed in the first alone, into a
    temporary file in `out` about as large as the text. Without validation data a share of the training groups (of the
    rows, if the schema has no group), chosen by a stable hash, is held out of fitting and training.

    Args:
        schema: What the columns mean; patterns are resolved by the training file's header. ``None`` takes that of
            `extend`.
        train: Training rows: a file, glob, folder, list of these, DataFrame or Arrow table.
        valid: Validation rows.
        test: Test rows: encoded, never learned from.
        out: The folder to write, which must not exist yet; it appears only when it is complete. ``None`` keeps the
            dataset in memory.
        holdout: The share of the training groups to hold out when there is no validation data.
        progress: Called with what is being done and the number of rows just read.
        bad_rows: What to do with rows that have a value that does not parse or a wrong number of columns: the first is
            an error, or all are left out, and the notes count them and show examples.
        thinning: How files were thinned, if negative rows were dropped from any. Predictions are then those for all
            rows, and metrics count the rows of a thinned file by the rows they stand for.
        extend: What these rows are another day of: a run folder, a prepared dataset or its fitted schema, or an
            `Extension` of one, which has options. New categories get ids behind the known ones, which stay.

    Raises:
        DataError: A file is missing, empty, was seen already or has a value that does not parse, or `out` exists.
        SchemaError: A column is missing, or is something else in the schema to extend.
    """
    if not 0 <= holdout < 1:
        raise DataError(f"`holdout` must be in [0, 1), got {holdout}")
    skipped, extension = bad_row_counter(bad_rows), open_extension(extend) if extend is not None else None
    schema = schema or extended_schema(extension)
    given = {"train": train, "valid": valid, "test": test}
    sources = {name: open_sources(data, name, schema.text_format) for name, data in given.items() if data is not None}
    resolved = schema.resolve(sources["train"][0].columns, sources["train"][0].name, sources["train"][0].index)
    for source in chain.from_iterable(sources.values()):
        resolved.resolve(source.columns, source.name)
    holdouts = Holdout(resolved.group, 0.0 if valid is not None else holdout)
    thinned = thinned_splits(thinning, resolved, sources, holdouts.share > 0) if thinning else None
    shares = NegativeShares(resolved, thinned) if thinned else None
    files = digests(sources["train"])
    if extension:
        resolved = extension.check(resolved, thinned.of("train") if thinned else None, files)
    with ExitStack() as stack:
        folder = None if out is None else stack.enter_context(new_folder(Path(out)))
        parsed = stack.enter_context(tempfile.TemporaryDirectory(dir=folder))
        sources["train"] = spool_parsed(sources["train"], Path(parsed))
        fitter = Fitter(resolved, thinned.of("train") if thinned else None)
        learn = partial(_fit, fitter, resolved, sources["train"], holdouts, progress, bad_row_counter(bad_rows))
        fitted, notes = learn(partial(fitter.finish, files, extension))
        others = {name: digests(parts) for name, parts in sources.items() if name != "train"}
        for name, names in others.items():
            notes += fitted.history.seen(name, names) if fitted.history.files.keys() & names.keys() else ()
        counts = FoldCounts(fitted, extension) if fitted.rated_blocks else None
        if counts:
            _count_labels(resolved, counts, sources["train"], holdouts, progress, bad_row_counter(bad_rows))
            fitted, more = counts.finish()
            notes += more
        findings = {name: EncodingFindings(fitted, name) for name in sources}
        encoded = _encode(fitted, counts, sources, holdouts, progress, skipped, findings)
        encoded = shares.counted(encoded) if shares else encoded
        found = partial(_encoding_notes, sources, skipped, [*findings.values(), *([shares] if shares else ())])
        if folder is None or out is None:
            batches: dict[str, list[pa.RecordBatch]] = {}
            for name, batch in encoded:
                batches.setdefault(name, []).append(batch)
            splits = {
                name: Rows(fitted, pa.Table.from_batches(parts), name, thinned.of(name) if thinned else None)
                for name, parts in batches.items()
            }
            return PreparedData(fitted, splits, (*notes, *found()))
        written = write_shards(folder, 0, encoded)
        save_fitted(fitted, folder)
        rows = {split: [shard.rows] for split, shard in written.items()}
        known = {shard_file(split, 0): (shard.size, shard.sha256) for split, shard in written.items()}
        manifest = write_manifest(folder, rows, [*notes, *found()], thinned, known)
    return PreparedData.stored(Path(out), manifest, fitted)


def bad_row_counter(bad_rows: BadRows) -> BadRowCounter | None:
    """Return a counter of rows that do not parse if they are skipped."""
    return BadRowCounter() if skips(bad_rows) else None


@dataclass(frozen=True)
class Holdout:
    """Training rows that are held out, the same in every pass, by the hash of the group or else of the row number."""

    group: str | None
    share: float

    def mask(self, batch: pa.RecordBatch, rows: RowNumbers) -> npt.NDArray[np.bool_]:
        """Return which rows of a batch are held out ``[rows]``, given the numbers of its rows."""
        held_out: npt.NDArray[np.bool_] = group_hashes(self.group, batch, rows) < self.share * 2.0**64
        return held_out


def _fit(
    fitter: Fitter,
    schema: Schema,
    sources: list[Source],
    holdout: Holdout,
    progress: Progress,
    skipped: BadRowCounter | None,
    finish: Callable[[], tuple[FittedSchema, list[str]]],
) -> tuple[FittedSchema, list[str]]:
    total = 0

    def use(batch: pa.RecordBatch, numbers: RowNumbers) -> int:
        kept = ~holdout.mask(batch, numbers)
        try:
            fitter.add(batch if kept.all() else batch.filter(pa.array(kept)))
        except BadValueError as bad:
            bad.row = int(np.flatnonzero(kept)[bad.row])
            raise
        return int(batch.num_rows)

    for rows in convert(schema, sources, use, skipped):
        total += rows
        progress("fit", rows)
    if fitter.rows == 0:
        raise DataError("every training row fell into the held-out share: give a validation file or more rows")
    fitted, notes = finish()
    if holdout.share and fitter.rows == total:
        notes.append("no training row fell into the held-out share: there are no validation rows")
    if holdout.share and schema.group in {feature.name for feature in schema.features}:
        notes.append(
            f"no held-out row has a {schema.group!r} of the training rows: give validation rows that have some"
        )
    return fitted, notes


def _count_labels(
    schema: Schema,
    counts: FoldCounts,
    sources: list[Source],
    holdout: Holdout,
    progress: Progress,
    skipped: BadRowCounter | None,
) -> None:
    """Count the labels of the training rows by fold and id."""

    def use(batch: pa.RecordBatch, numbers: RowNumbers) -> int:
        kept, folds = ~holdout.mask(batch, numbers), counts.folds(batch, numbers)
        counts.add(batch if kept.all() else batch.filter(pa.array(kept)), folds[kept])
        return int(batch.num_rows)

    for rows in convert(schema, sources, use, skipped):
        progress("count labels", rows)


def _encode(
    fitted: FittedSchema,
    counts: FoldCounts | None,
    sources: Mapping[str, list[Source]],
    holdout: Holdout,
    progress: Progress,
    skipped: BadRowCounter | None,
    findings: Mapping[str, EncodingFindings],
) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Encode every split, batch by batch; yield its name and its rows.

    Training rows have the label rates of the other folds, given the counts of all; other rows those of the schema.
    """

    def use(split: str, batch: pa.RecordBatch, numbers: RowNumbers) -> dict[str, pa.RecordBatch]:
        if split != "train":
            return {split: encode_batch(fitted, batch, findings=findings[split])}
        held_out = holdout.mask(batch, numbers)

        def rates(ids: Ids) -> npt.NDArray[np.float32]:
            found = encode_label_rates(fitted, ids)
            if counts:
                found[~held_out] = counts.encode(ids[~held_out], counts.folds(batch, numbers)[~held_out])
            return found

        encoded = encode_batch(fitted, batch, rates, findings[split])
        if not holdout.share:
            return {split: encoded}
        return {"train": _select_rows(encoded, ~held_out), "valid": _select_rows(encoded, held_out)}

    for split, files in sources.items():
        for parts in convert(fitted.schema, files, partial(use, split), skipped, fitted.integer_keys, ENCODERS):
            progress("encode", sum(batch.num_rows for batch in parts.values()))
            yield from ((part, rows) for part, rows in parts.items() if rows.num_rows)


def encode_batch(
    fitted: FittedSchema,
    batch: pa.RecordBatch,
    rates: Callable[[Ids], npt.NDArray[np.float32]] | None = None,
    findings: EncodingFindings | None = None,
) -> pa.RecordBatch:
    """Encode a batch of raw columns as the columns of a split, which `check_encoded` lists.

    Labels, weights and keys may be absent, as in rows to predict: then labels are missing (NaN) and weights 1. `rates`
    encodes ids as label rates; ``None`` takes those of all training rows. `findings` counts the rows that are not read
    as they are.
    """
    schema, present = fitted.schema, set(batch.schema.names)
    missing = np.full(batch.num_rows, np.nan)
    labels = [label_column(schema, batch, name) if name in present else missing for name in schema.labels]
    (ids, lists), numbers = encode_ids(fitted, batch, findings), [encode_numbers(batch, fitted, findings)]
    if findings:
        findings.add_rows(ids, lists, labels)
        for name in schema.class_labels.keys() & present:
            findings.add(name, OTHER_CLASS, class_codes(batch.column(name), schema.class_labels[name])[1])
    if fitted.rated_blocks:
        numbers.append(rates(ids) if rates else encode_label_rates(fitted, ids))
    columns = id_columns(fitted, ids, lists)
    if fitted.numeric_columns:
        columns[NUMERIC] = from_matrix(np.hstack(numbers) if len(numbers) > 1 else numbers[0])
    columns[LABELS] = from_matrix(np.column_stack(labels).astype(np.float32))
    weights = {name: weight_column(schema, batch, name if name in present else None) for name in schema.weights}
    if schema.weight:
        columns[WEIGHT] = pa.array(weights[schema.weight].astype(np.float32))
    if schema.task_weights:
        own = np.column_stack([weights[name] for name in schema.task_weights])
        columns[TASK_WEIGHTS] = from_matrix(own.astype(np.float32))
    for key in schema.carried:
        if key in present:
            columns[KEY_PREFIX + key] = _encode_key(fitted, batch.column(key), key)
    return pa.RecordBatch.from_pydict(columns)


def _encode_key(fitted: FittedSchema, column: pa.Array, key: str) -> pa.Array:
    """Return a carried column as integers if the training rows had nothing else, otherwise as text."""
    if key in fitted.integer_keys and pa.types.is_int64(column.type):
        return column
    values, codes = as_text(column, key)
    if key in fitted.integer_keys:
        values = as_integers(values, codes, key)
    return values.take(pa.array(np.maximum(codes, 0), mask=codes < 0))


def _select_rows(encoded: pa.RecordBatch, mask: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """Return the rows of an encoded batch that a mask selects."""

    def selected(column: pa.Array) -> pa.Array:
        if pa.types.is_fixed_size_list(column.type):
            return from_matrix(to_matrix(column)[mask])  # far faster than Arrow's filter
        return column.filter(pa.array(mask))

    return pa.RecordBatch.from_arrays([selected(column) for column in encoded.columns], encoded.schema.names)


def _encoding_notes(
    sources: Mapping[str, list[Source]],
    skipped: BadRowCounter | None,
    findings: Iterable[EncodingFindings | NegativeShares],
) -> Iterator[str]:
    """Return the notes of the sources, on rows that were left out or not read as they are, and on thinned files."""
    yield from (note for source in chain.from_iterable(sources.values()) for note in source.notes)
    yield from skipped.notes() if skipped else ()
    yield from (note for found in findings for note in found.notes())
