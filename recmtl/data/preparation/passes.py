"""The passes over the parts of the rows: fit, count labels, encode; what parts gave is put together in their order."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from recmtl.data.columns.variation import EncodingFindings
from recmtl.data.preparation.convert import no_rows
from recmtl.data.preparation.fit import Fitter
from recmtl.data.preparation.label_rates import FoldCounts
from recmtl.data.preparation.part_work import (
    PARSED,
    Job,
    Part,
    PartResult,
    PreparePlan,
    Progress,
    Shared,
    Work,
    count_part,
    encode_part,
    fit_part,
)
from recmtl.data.preparation.parts import portable_fitted
from recmtl.data.preparation.thinned_files import NegativeShares
from recmtl.data.sources.bad_rows import BadRowCounter
from recmtl.data.sources.base import CountedNote, PartMap, Source, joined_notes
from recmtl.data.store.format import WrittenShard
from recmtl.errors import DataError
from recmtl.schema import FittedSchema


class Passes:
    """Passes over parts of rows.

    Args:
        plan: What is done, before fitting.
        parts: The parts of all splits, in order.
        work: Where it is done; ``None`` does it here.
        progress: Called with what is being done and the number of rows just read.
    """

    def __init__(self, plan: PreparePlan, parts: Sequence[Part], work: PartMap | None, progress: Progress) -> None:
        self._plan, self._work, self._progress = plan, work, progress
        self._train = [part for part in parts if part.split == "train"]
        self._others = [part for part in parts if part.split != "train"]

    def fit(self, fitter: Fitter, sources: Sequence[Source]) -> int:
        """Let a fitter learn from the training rows; return how many there are, those held out included.

        Raises:
            DataError: There are none, or all are held out.
        """
        skipped, total, parsed = self._counter(), 0, list[Part]()
        for result in self._results(fit_part, "fit", self._plan, self._train, skipped, lambda: fitter.sample_limit):
            fitter.merge(result.found)
            total += result.rows
            parsed.append(result.part)
        self._train = parsed
        if not total:
            raise no_rows(sources, skipped)
        if fitter.rows == 0:
            raise DataError("every training row fell into the held-out share: give a validation file or more rows")
        return total

    def count(self, fitted: FittedSchema, counts: FoldCounts) -> None:
        """Count the labels of the training rows by fold and id."""
        plan = replace(self._plan, fitted=portable_fitted(fitted), counted=counts.counted)
        for result in self._results(count_part, "count labels", plan, self._train, self._counter()):
            counts.merge(result.found)

    def encode(
        self, fitted: FittedSchema, counts: FoldCounts | None, sources: Mapping[str, Sequence[Source]]
    ) -> tuple[list[dict[str, tuple[int, WrittenShard]]], list[str]]:
        """Encode every split, each part to a shard; return the number and the shard of each by split, and notes.

        Raises:
            DataError: A split has no rows.
        """
        plan, skipped = replace(self._plan, fitted=portable_fitted(fitted), counts=counts), self._counter()
        findings = {split: EncodingFindings(fitted, split) for split in sources}
        shares = NegativeShares(plan.schema, plan.thinning) if plan.thinning else None
        notes, shards, rows = list[str | CountedNote](), [], dict.fromkeys(sources, 0)
        for result in self._results(encode_part, "encode", plan, [*self._train, *self._others], skipped):
            part, found = result.part, result.found
            shutil.rmtree(plan.folder / PARSED / part.name, ignore_errors=True)
            findings[part.split].merge(found.findings)
            if shares:
                shares.merge(found.shares)
            notes += found.notes
            rows[part.split] += result.rows
            shards.append({split: (part.number, shard) for split, shard in found.shards.items()})
        for split, count in rows.items():
            if not count:
                raise no_rows(sources[split], skipped)
        said = [note for counted in (*findings.values(), *([shares] if shares else ())) for note in counted.notes()]
        return shards, [*joined_notes(notes), *(skipped.notes() if skipped else ()), *said]

    def _counter(self) -> BadRowCounter | None:
        return BadRowCounter() if self._plan.skips else None

    def _results(
        self,
        function: Work,
        activity: str,
        plan: PreparePlan,
        parts: Sequence[Part],
        skipped: BadRowCounter | None,
        limit: Callable[[], int] | None = None,
    ) -> Iterator[PartResult]:
        """Yield the result of each part, in order; later jobs carry limits from earlier results."""
        shared = Shared(plan, plan.folder / PARSED / activity.replace(" ", "_"))

        def jobs() -> Iterator[Job]:
            for part in parts:
                job = Job(part, shared, skipped.missing if skipped else 0)
                yield job if limit is None else job._replace(sample_limit=limit())

        here = partial(function, progress=self._progress)
        for result in map(here, jobs()) if self._work is None else self._work(function, jobs()):
            if self._work is not None:
                self._progress(activity, result.rows)
            if skipped and result.skipped:
                skipped.merge(result.skipped)
            yield result
