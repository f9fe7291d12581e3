"""Prepare on a cluster: the work on parts as tasks of Ray."""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from recmtl._version import __version__
from recmtl.errors import DataError
from recmtl.io.worker import answer

Argument = TypeVar("Argument")
Result = TypeVar("Result")
ENDING = 60.0  # seconds that tasks have to end once they are cancelled


def ray_map(function: Callable[[Argument], Result], arguments: Iterable[Argument]) -> Iterator[Result]:
    """Yield the result of a function for each argument, in order, each called in a task of Ray.

    It is what `prepare` takes as `workers`. As many tasks run as the cluster has CPUs; call `ray.init` before to join
    one. All machines must see the raw files, and the folder to write, under the same paths. A task of a machine that
    was lost runs again elsewhere.

    Raises:
        DataError: Ray is not installed, or has lost a task, also when it ran again.

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
                running.append(task.remote(_call, pickle.dumps((function, argument), protocol=5)))
            if not running:
                return
            try:
                good, value = ray.get(running.popleft())
            except ray.exceptions.RayError as error:
                lines = str(error).strip().splitlines()  # the last one of a traceback has the reason
                reason = lines[-1 if isinstance(error, ray.exceptions.RayTaskError) else 0].partition(". ")[0]
                needed = f"each machine needs recmtl {__version__}, and memory for a part for each of its CPUs"
                raise DataError(f"a task of Ray has failed: {reason.rstrip('.')}: {needed}") from error
            if not good:
                raise value
            yield value
    finally:
        for waiting in running:
            ray.cancel(waiting, force=True)
        if running:  # until then they may write into a folder that is to be removed
            ray.wait([*running], num_returns=len(running), timeout=ENDING)


def _call(request: bytes) -> Any:
    function, argument = pickle.loads(request)
    return function(argument)
