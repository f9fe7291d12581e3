"""The parts into which rows are cut, and the processes that work on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Protocol, TypeVar

from recmtl.data.preparation import part_work
from recmtl.data.preparation.part_work import Part
from recmtl.data.sources.base import Source
from recmtl.errors import DataError
from recmtl.io.worker_pool import WorkerPool
from recmtl.schema import FittedSchema, Schema

PART_BYTES = 1 << 26  # of a part: a file, a piece of one, or several small ones

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class PartMap(Protocol):
    """As `map`: yields the result of a function for each argument, in order, from wherever it is called."""

    def __call__(self, function: Callable[[Argument], Result], arguments: Iterable[Argument], /) -> Iterable[Result]:
        """Call the function."""


def cut_into_parts(sources: Mapping[str, Sequence[Source]], work: PartMap) -> list[Part]:
    """Return the parts of the rows of each split, which do not depend on where the work is done."""
    parts = []
    for split, files in sources.items():
        held, size, number = list[Source](), 0, 0
        for piece in chain.from_iterable(file.cut(PART_BYTES, work) for file in files):
            more = PART_BYTES if piece.size is None else piece.size
            if held and size + more > PART_BYTES:
                parts.append(Part(split, number, held))
                held, size, number = list[Source](), 0, number + 1
            held.append(piece)
            size += more
        parts.append(Part(split, number, held))
    return parts


@contextmanager
def part_map(workers: int | PartMap, sources: Mapping[str, Sequence[Source]]) -> Iterator[PartMap | None]:
    """Yield the map that calls functions in processes; ``None`` if this one does all of the work.

    It does if rows are in memory, or if there is one part alone.

    Raises:
        DataError: There is less than one worker.
    """
    files = [*chain.from_iterable(sources.values())]
    few = sum(PART_BYTES if file.size is None else file.size for file in files) <= PART_BYTES
    here = few or not all(file.portable for file in files)
    if not isinstance(workers, int):
        yield None if here else workers
        return
    if workers < 1:
        raise DataError(f"`workers` must be at least 1, got {workers}")
    if workers == 1 or here:
        yield None
        return
    with WorkerPool(workers, part_work.__name__) as pool:
        yield pool.map


def portable(schema: Schema) -> Schema:
    """Return a schema without losses of one's own, which another process may not find."""
    return replace(schema, tasks=[replace(t, loss=None) if callable(t.loss) else t for t in schema.tasks])


def portable_fitted(fitted: FittedSchema) -> FittedSchema:
    """Return a fitted schema without losses of one's own."""
    own = any(callable(task.loss) for task in fitted.schema.tasks)
    return replace(fitted, schema=portable(fitted.schema)) if own else fitted
