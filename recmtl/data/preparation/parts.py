"""The parts into which rows are cut, and the processes that work on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path

from recmtl.data.preparation import part_work
from recmtl.data.preparation.part_work import Part
from recmtl.data.sources.base import PartMap, Source
from recmtl.errors import DataError
from recmtl.io.location import COMPRESSIONS
from recmtl.io.worker_pool import WorkerPool
from recmtl.schema import FittedSchema, Schema

PART_BYTES = 1 << 26  # of a part: a file, a piece of one, or several small ones


def cut_into_parts(sources: Mapping[str, Sequence[Source]], work: PartMap) -> list[Part]:
    """Return the parts of the rows of each split, which do not depend on where the work is done."""
    parts = []
    for split, files in sources.items():
        held, size, number = list[Source](), 0.0, 0
        for piece in chain.from_iterable(file.cut(PART_BYTES, work) for file in files):
            if held and size + piece.size > PART_BYTES:
                parts.append(Part(split, number, held))
                held, size, number = list[Source](), 0.0, number + 1
            held.append(piece)
            size += piece.size
        parts.append(Part(split, number, held))
    return parts


def check_workers(workers: int | PartMap) -> None:
    """Check that there is a worker, or a map."""
    if workers < 1 if isinstance(workers, int) else not callable(workers):
        raise DataError(f"`workers` must be at least 1, or a function like `map`, got {workers!r}")


@contextmanager
def part_map(workers: int | PartMap, sources: Mapping[str, Sequence[Source]]) -> Iterator[PartMap | None]:
    """Yield the map that calls functions in processes; ``None`` if this one does all of the work.

    It does if rows are in memory, or if there is one part alone. There are no more processes than parts, any two
    neighbours of which are larger than one.
    """
    files = [*chain.from_iterable(sources.values())]
    size = sum(file.size for file in files)
    here = size <= PART_BYTES or not all(file.portable for file in files)
    if not isinstance(workers, int):
        yield None if here else workers
        return
    most = len(sources) + 2 * size / PART_BYTES
    if workers == 1 or here:
        yield None
        return
    with WorkerPool(int(min(workers, most)), part_work.__name__) as pool:
        yield pool.map


def sharing_notes(workers: int | PartMap, parts: Sequence[Part]) -> Iterator[str]:
    """Yield a note if this process has done all of the work, or one on each file that kept one worker busy."""
    if workers == 1:
        return
    pieces = [source for part in parts for source in part.sources]
    alone = next((piece.name for piece in pieces if not piece.portable), None)
    if alone is not None:
        shared = "they share CSV, Parquet and Arrow files"
        yield f"one process has prepared all rows, as `workers` cannot share {alone}: {shared}"
    elif isinstance(workers, int):
        total, counts = sum(piece.size for piece in pieces), Counter(piece.name for piece in pieces)
        if total <= PART_BYTES:
            packed = any(Path(name).suffix.lower() in COMPRESSIONS for name in counts)
            unpack = ", of compressed files once they are unpacked" * packed
            most, size = (f"{number / 1e6:,.0f} MB" for number in (PART_BYTES, total))
            yield f"one process has prepared all rows, {size}, as `workers` share more than {most} alone{unpack}"
        for piece in pieces:
            if counts[piece.name] == 1 and piece.size > max(PART_BYTES, total / workers):
                size = f"{piece.size / 1e6:,.0f} MB"
                cause = "which cannot be cut: several files would be shared"
                yield f"one worker has read all {size} of {piece.name}, {cause}"


def portable(schema: Schema) -> Schema:
    """Return a schema without losses of one's own, which another process may not find."""
    return replace(schema, tasks=[replace(t, loss=None) if callable(t.loss) else t for t in schema.tasks])


def portable_fitted(fitted: FittedSchema) -> FittedSchema:
    """Return a fitted schema without losses of one's own."""
    own = any(callable(task.loss) for task in fitted.schema.tasks)
    return replace(fitted, schema=portable(fitted.schema)) if own else fitted
