"""Work done by a thread, ahead of who uses it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
END = object()


def ahead(jobs: Iterable[Callable[[], T]]) -> Iterator[T]:
    """Give the results of jobs in their order, each of them done while the one before is used."""
    with ThreadPoolExecutor(1) as thread:
        waiting: Future[T] | None = None
        for job in jobs:
            upcoming = thread.submit(job)
            if waiting is not None:
                yield waiting.result()
            waiting = upcoming
        if waiting is not None:
            yield waiting.result()


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """Give items, each of them made while the one before is used."""

    def jobs() -> Iterator[Callable[[], T | object]]:
        while True:
            yield lambda: next(items, END)

    for item in ahead(jobs()):
        if item is END:
            return
        yield item  # type: ignore[misc]
