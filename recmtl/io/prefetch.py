"""Run jobs in threads ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def prefetch(jobs: Iterable[Callable[[], Result]], threads: int = 1) -> Iterator[Result]:
    """Yield the results of jobs in their order, while as many later jobs as there are threads already run.

    Without threads a job runs when its result is asked for.

    An exception is raised in order as well, after the results of the jobs before it. A reader that stops early does
    not wait for jobs that run. It must not: the garbage collector may close an abandoned reading within any thread, one
    of its own too, and within any lock, such as the one that `threading` holds where a thread starts and where it ends.
    """
    if not threads:
        yield from (job() for job in jobs)
        return
    waiting: deque[Future[Result]] = deque()
    coming, failed = iter(jobs), None
    pool, wait = ThreadPoolExecutor(threads), True
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
    except GeneratorExit:
        wait = False
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)
    if failed is not None:
        raise failed
