"""Turn raw rows into a prepared dataset: fit on the training rows, then encode every split."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from recmtl.data.preparation.fit import Fitter
from recmtl.data.preparation.label_rates import FoldCounts
from recmtl.data.preparation.part_work import PARSED, Holdout, PreparePlan, Progress, ignore_progress
from recmtl.data.preparation.parts import (
    check_workers,
    cut_into_parts,
    part_map,
    portable,
    portable_fitted,
    sharing_notes,
)
from recmtl.data.preparation.passes import Passes
from recmtl.data.preparation.thinned_files import thinned_splits
from recmtl.data.sources.bad_rows import BadRowCounter
from recmtl.data.sources.base import PartMap
from recmtl.data.sources.open import Data, digests, open_sources
from recmtl.data.store.format import number_shards, write_manifest
from recmtl.data.store.prepared import PreparedData
from recmtl.errors import DataError
from recmtl.io.csv_records import BadRows, skips
from recmtl.io.files import new_folder
from recmtl.io.machine import keep_freed_memory
from recmtl.schema import Schema, Thinning
from recmtl.schema.extend import Extendable, extended_schema, open_extension
from recmtl.schema.serialization import save_fitted


def prepare(
    schema: Schema | None,
    train: Data,
    valid: Data | None = None,
    test: Data | None = None,
    out: str | Path | None = None,
    holdout: float = 0.1,
    progress: Progress = ignore_progress,
    bad_rows: BadRows = "error",
    thinning: Thinning | None = None,
    extend: Extendable | None = None,
    workers: int | PartMap = 1,
) -> PreparedData:
    """Turn raw data into a prepared dataset.

    Two passes over the training data: the first fits vocabularies, statistics and label rates, the second encodes; one
    in between counts the labels of each id if a feature has `label_rates`. Text is parsed in the first alone, into
    temporary files in `out` about as large as the text. Each pass works on parts of the rows by themselves, which are
    files, or pieces of them of 64 MiB: the result is the same, bit for bit, for any number of workers. Without
    validation data a share of the training groups (of the rows, if the schema has no group), chosen by a stable hash,
    is held out of fitting and training.

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
        workers: How many processes work on parts, or a function like `map` that calls others elsewhere, such as
            `ray_map`. Rows in memory, raw files of a site and a single small file are prepared by this process alone.

    Raises:
        DataError: A file is missing, empty, was seen already or has a value that does not parse, `out` exists, or a
            worker has died.
        SchemaError: A column is missing, or is something else in the schema to extend.
    """
    if not 0 <= holdout < 1:
        raise DataError(f"`holdout` must be in [0, 1), got {holdout}")
    check_workers(workers)
    keep_freed_memory()
    skip = skips(bad_rows)
    extension = open_extension(extend) if extend is not None else None
    schema = schema or extended_schema(extension)
    given = {"train": train, "valid": valid, "test": test}
    sources = {name: open_sources(data, name, schema.text_format) for name, data in given.items() if data is not None}
    resolved = schema.resolve(sources["train"][0].columns, sources["train"][0].name, sources["train"][0].index)
    for source in chain.from_iterable(sources.values()):
        resolved.resolve(source.columns, source.name)
    holdouts = Holdout(resolved.group, 0.0 if valid is not None else holdout)
    thinned = thinned_splits(thinning, resolved, sources, holdouts.share > 0) if thinning else None
    files = digests(sources["train"])
    if extension:
        resolved = extension.check(resolved, thinned.of("train") if thinned else None, files)
    with ExitStack() as stack:
        new = new_folder(Path(out)) if out is not None else _temporary_folder()
        folder = stack.enter_context(new).absolute()  # workers may run in another one
        (folder / PARSED).mkdir()
        work = stack.enter_context(part_map(workers, sources))
        plan = PreparePlan(folder, portable(resolved), holdouts, skip, thinned)
        parts = cut_into_parts(sources, work or map)
        passes = Passes(plan, parts, work, progress)
        fitter = Fitter(resolved, thinned.of("train") if thinned else None)
        total = passes.fit(fitter, sources["train"])
        fitted, notes = fitter.finish(files, extension)
        notes += _holdout_notes(resolved, holdouts, total - fitter.rows)
        others = {name: digests(parts) for name, parts in sources.items() if name != "train"}
        for name, names in others.items():
            notes += fitted.history.seen(name, names) if fitted.history.files.keys() & names.keys() else ()
        counts = FoldCounts(portable_fitted(fitted), extension) if fitted.rated_blocks else None
        if counts:
            passes.count(fitted, counts)
            fitted, more = counts.finish(fitted)
            notes += more
        shards, found = passes.encode(fitted, counts, sources)
        shutil.rmtree(folder / PARSED)
        save_fitted(fitted, folder)
        manifest = write_manifest(folder, *number_shards(folder, shards), [*notes, *found], thinned)
        if out is None:
            data = PreparedData.stored(folder, manifest, fitted, mapped=False).held()
    if out is not None:
        data = PreparedData.stored(Path(out), manifest, fitted)
    return replace(data, notes=(*data.notes, *sharing_notes(workers, parts)))


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def bad_row_counter(bad_rows: BadRows) -> BadRowCounter | None:
    """Return a counter of rows that do not parse if they are skipped."""
    return BadRowCounter() if skips(bad_rows) else None


def _holdout_notes(schema: Schema, holdout: Holdout, held_out: int) -> Iterator[str]:
    """Yield notes on the rows that are held out."""
    if holdout.share and not held_out:
        yield "no training row fell into the held-out share: there are no validation rows"
    if holdout.share and schema.group in {feature.name for feature in schema.features}:
        yield f"no held-out row has a {schema.group!r} of the training rows: give validation rows that have some"
