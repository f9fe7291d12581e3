"""Work done by threads, ahead of who uses it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetch(jobs: Iterable[Callable[[], T]], threads: int = 1) -> Iterator[T]:
    """Give the results of jobs in their order; as many as there are threads are done while one is used.

    An exception comes in its order, too: the results of the jobs before are given first.

    Args:
        jobs: What is to be done; the next one is asked for while those before it are done.
        threads: How many are done at the same time.
    """
    waiting: deque[Future[T]] = deque()
    coming, failed = iter(jobs), None
    with ThreadPoolExecutor(threads) as pool:
        try:
            while failed is None:
                try:
                    waiting.append(pool.submit(next(coming)))
                except StopIteration:
                    break
                except Exception as error:
                    failed = error
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
    if failed is not None:
        raise failed
