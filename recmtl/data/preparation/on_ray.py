"""Prepare on a cluster: the work on parts as tasks of Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from recmtl.errors import DataError
from recmtl.io.worker import answer

Argument = TypeVar("Argument")
Result = TypeVar("Result")


def ray_map(function: Callable[[Argument], Result], arguments: Iterable[Argument]) -> Iterator[Result]:
    """Yield the result of a function for each argument, in order, each called in a task of Ray.

    It is what `prepare` takes as `workers`. As many tasks run as the cluster has CPUs; call `ray.init` before to join
    one. All machines must see the raw files, and the folder to write, under the same paths. A task of a machine that
    was lost runs again elsewhere.

    Raises:
        DataError: Ray is not installed.

    Example:
        >>> recmtl.prepare(schema, "/shared/clicks", out="/shared/prepared", workers=recmtl.ray_map)  # doctest: +SKIP
    """
    try:
        import ray
    except ImportError as error:
        raise DataError("`ray_map` needs Ray: install it with `pip install 'recmtl[ray]'`") from error
    if not ray.is_initialized():
        ray.init()
    task = ray.remote(answer)
    running: deque[Any] = deque()
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))  # some wait, so that no CPU does
    coming = iter(arguments)
    try:
        while True:
            while len(running) < most and (argument := next(coming, running)) is not running:
                running.append(task.remote(function, argument))
            if not running:
                return
            good, value = ray.get(running.popleft())
            if not good:
                raise value
            yield value
    finally:
        for waiting in running:
            ray.cancel(waiting, force=True)
