"""What is done with each part of the rows by itself, here or in another process: fit, count labels, encode."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recmtl._version import __version__
from recmtl.data.columns.id_lists import Ids
from recmtl.data.columns.row_sample import SampledFrom
from recmtl.data.columns.values import RowNumbers
from recmtl.data.columns.variation import EncodingFindings, FoundCounts
from recmtl.data.preparation.convert import convert, group_hashes
from recmtl.data.preparation.encode_batch import encode_batch, select_rows
from recmtl.data.preparation.fit import Fitter
from recmtl.data.preparation.label_rates import FoldCounts, FoldSums, encode_label_rates, folds_of
from recmtl.data.preparation.thinned_files import NegativeShares
from recmtl.data.sources.bad_rows import BadRowCounter
from recmtl.data.sources.base import CountedNote, Source, spool_parsed
from recmtl.data.store.format import WrittenShard, write_shards
from recmtl.errors import DataError
from recmtl.io.files import new_file
from recmtl.schema import FittedSchema, Schema, Thinning

ENCODERS = 1  # batches encoded while the one before is written
MOST_ROWS = 1 << 40  # of a part: its rows are numbered from its own number times this
PARSED = "parsed"  # the folder with the rows of parsed text

Progress = Callable[[str, int], None]  # the activity, and how many rows it has just done
Content = TypeVar("Content")


@dataclass(frozen=True)
class Part:
    """Some of the rows of a split, read one source after the other.

    Args:
        split: The split.
        number: The place among the parts of the split, from 0.
        sources: Files, or pieces of one.
    """

    split: str
    number: int
    sources: Sequence[Source]

    @property
    def first_row(self) -> int:
        """The number of the first row."""
        return self.number * MOST_ROWS

    @property
    def name(self) -> str:
        """The name of its folder of parsed rows."""
        return f"{self.split}-{self.number}"


@dataclass(frozen=True)
class Holdout:
    """Training rows that are held out, the same in every pass, by the hash of the group or else of the row number."""

    group: str | None
    share: float

    def mask(self, batch: pa.RecordBatch, rows: RowNumbers) -> npt.NDArray[np.bool_]:
        """Return which rows of a batch are held out ``[rows]``, given the numbers of its rows."""
        held_out: npt.NDArray[np.bool_] = group_hashes(self.group, batch, rows) < self.share * 2.0**64
        return held_out


class Shared(Generic[Content]):
    """What the work on many parts has in common; another process reads it once, from a file in a folder."""

    def __init__(self, content: Content, path: Path) -> None:
        self.content, self._path = content, path

    def __reduce__(self) -> tuple[Any, ...]:
        """Write the file the first time."""
        if not self._path.exists():
            with new_file(self._path) as path, path.open("wb") as file:
                for content in (__version__, self.content):
                    pickle.dump(content, file, protocol=5)
        return _read_shared, (self._path,)


@lru_cache(maxsize=1)
def _read_shared(path: Path) -> Shared[Any]:
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        seen = "give `prepare` an `out` that all machines see under the same path"
        raise DataError(f"a worker finds no file {str(path)!r}: {seen}") from error
    with file:
        if (version := pickle.load(file)) != __version__:
            raise DataError(f"a worker has recmtl {__version__}, and `prepare` was called by {version}: install one")
        return Shared(pickle.load(file), path)


@dataclass(frozen=True)
class PreparePlan:
    """How parts are fitted, counted and encoded; the last three are known after fitting.

    Args:
        folder: Where shards are written, and parsed rows below.
        schema: The resolved schema.
        holdout: Which training rows are held out.
        skips: Whether rows that do not parse are left out.
        thinning: How files were thinned; ``None`` if they were not.
        fitted: The fitted schema.
        counted: The ids whose labels are counted, as of `FoldSums`.
        counts: The label counts.
    """

    folder: Path
    schema: Schema
    holdout: Holdout
    skips: bool
    thinning: Thinning | None
    fitted: FittedSchema | None = None
    counted: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    counts: FoldCounts | None = None


class Job(NamedTuple):
    """A part and what is done with it.

    Attributes:
        part: The part.
        plan: How it is done.
        examples: How many examples of bad rows are still needed.
        sample_limit: The highest hash of a row that the sample of rows still takes.
    """

    part: Part
    plan: Shared[PreparePlan]
    examples: int
    sample_limit: int = SampledFrom().limit

    @property
    def counter(self) -> BadRowCounter | None:
        """A counter of rows that do not parse, if they are left out."""
        return BadRowCounter(self.examples) if self.plan.content.skips else None


class PartResult(NamedTuple):
    """The result of work on a part: how many good rows it has, the count of its bad rows, and what was learned."""

    part: Part
    rows: int
    skipped: BadRowCounter | None
    found: Any


class Encoded(NamedTuple):
    """The shards of a part by split, what encoding it has found, and the notes of its sources."""

    shards: dict[str, WrittenShard]
    findings: FoundCounts
    shares: NegativeShares | None
    notes: list[str | CountedNote]


class Work(Protocol):
    """What is done with a part, here with progress."""

    def __call__(self, job: Job, progress: Progress = ...) -> PartResult:
        """Do it."""


def ignore_progress(activity: str, rows: int) -> None:
    """Show nothing."""


def fit_part(job: Job, progress: Progress = ignore_progress) -> PartResult:
    """Learn from the training rows of a part, and parse its text into files; return a fitter and the parsed part."""
    part, plan = job.part, job.plan.content
    folder = plan.folder / PARSED / part.name
    folder.mkdir(parents=True, exist_ok=True)
    part = replace(part, sources=spool_parsed(part.sources, folder))
    thinning = plan.thinning.of("train") if plan.thinning else None
    fitter = Fitter(plan.schema, thinning, SampledFrom(part.first_row, job.sample_limit))

    def add(batch: pa.RecordBatch, numbers: RowNumbers, kept: RowNumbers) -> None:
        fitter.add(batch, kept if len(kept) < batch.num_rows else None)

    return _read(job._replace(part=part), add, fitter, partial(progress, "fit"))


def count_part(job: Job, progress: Progress = ignore_progress) -> PartResult:
    """Count the labels of the training rows of a part by fold and id; return a `FoldSums`."""
    plan = job.plan.content
    assert plan.fitted is not None
    sums = FoldSums(plan.fitted, plan.counted)

    def add(batch: pa.RecordBatch, numbers: RowNumbers, kept: RowNumbers) -> None:
        rows = batch.take(kept) if len(kept) < batch.num_rows else batch
        sums.add(rows, folds_of(plan.schema.group, rows, numbers[kept]))

    return _read(job, add, sums, partial(progress, "count labels"))


def _read(
    job: Job,
    add: Callable[[pa.RecordBatch, RowNumbers, RowNumbers], None],
    found: Any,
    progress: Callable[[int], None],
) -> PartResult:
    """Add a part to what is found by batches, the numbers of their rows, and the places of those not held out."""
    part, plan, skipped, rows = job.part, job.plan.content, job.counter, 0

    def use(batch: pa.RecordBatch, numbers: RowNumbers) -> int:
        (kept,) = np.nonzero(~plan.holdout.mask(batch, numbers))
        if len(kept):
            add(batch, numbers, kept)
        return int(batch.num_rows)

    for done in convert(plan.schema, part.sources, use, skipped, allow_empty=True, first_row=part.first_row):
        rows += done
        progress(done)
    return PartResult(part, rows, skipped, found)


def encode_part(job: Job, progress: Progress = ignore_progress) -> PartResult:
    """Encode a part to shards, and return an `Encoded`; it can be done again, if the result is lost."""
    part, plan, fitted, rows = job.part, job.plan.content, job.plan.content.fitted, 0
    assert fitted is not None
    findings = EncodingFindings(fitted, part.split)
    shares = NegativeShares(plan.schema, plan.thinning) if plan.thinning else None
    use, integers = partial(_encoded, plan, part.split, findings), fitted.integer_keys
    skipped, first = job.counter, part.first_row

    def batches() -> Iterator[tuple[str, pa.RecordBatch]]:
        nonlocal rows
        for splits in convert(fitted.schema, part.sources, use, skipped, integers, ENCODERS, True, first):
            done = sum(batch.num_rows for batch in splits.values())
            rows += done
            progress("encode", done)
            yield from ((split, batch) for split, batch in splits.items() if batch.num_rows)

    shards = write_shards(plan.folder, part.number, shares.counted(batches()) if shares else batches())
    notes = [note for source in part.sources for note in source.notes]
    return PartResult(part, rows, skipped, Encoded(shards, findings.found, shares, notes))


def _encoded(
    plan: PreparePlan, split: str, findings: EncodingFindings, batch: pa.RecordBatch, numbers: RowNumbers
) -> dict[str, pa.RecordBatch]:
    """Encode a batch of a split; training rows may be held out for another one.

    Training rows have the label rates of the other folds, given the counts of all; other rows those of the schema.
    """
    fitted = plan.fitted
    assert fitted is not None
    if split != "train":
        return {split: encode_batch(fitted, batch, findings=findings)}
    held_out = plan.holdout.mask(batch, numbers)

    def rates(ids: Ids) -> npt.NDArray[np.float32]:
        found = encode_label_rates(fitted, ids)
        if plan.counts:
            folds = folds_of(plan.schema.group, batch, numbers)
            found[~held_out] = plan.counts.encode(ids[~held_out], folds[~held_out])
        return found

    encoded = encode_batch(fitted, batch, rates, findings)
    if not plan.holdout.share:
        return {split: encoded}
    return {"train": select_rows(encoded, ~held_out), "valid": select_rows(encoded, held_out)}
