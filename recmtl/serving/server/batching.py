"""Requests that arrive together are scored together: one call of the model for many small requests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recmtl.serving.server.request import BUSY, Limits, RefusedError, Row, ScoreRequest
from recmtl.serving.server.served import ScoringModel, ServedModel

Scores = Mapping[str, npt.NDArray[np.float64]]
Answer = tuple[Scores, ServedModel]
MOST_MERGED = 64  # rows of a request up to which it shares a call: larger ones gain nothing by it
MOST_TEXT = 64  # characters of a user's field that may be repeated for each candidate of a shared call
MOST_ROWS = 256  # rows of a shared call


@dataclass
class _Waiting:
    """A request in the queue."""

    request: ScoreRequest
    answer: asyncio.Future[Answer]
    deadline: float


class Batcher:
    """The queue of a worker: one call of the model after the other, each with all small requests that wait.

    Args:
        current: Returns the model of the moment. A call is scored by one model from its first row to its last.
        executor: Where calls run that are too large for the event loop.
        limits: How many requests wait, and how long.
        wait: Seconds for which a small request waits for others.
        inline: Rows up to which a call runs in the event loop itself, which saves two switches between threads.
        on_call: Is told the requests and rows of each call.
    """

    def __init__(
        self,
        current: Callable[[], ServedModel],
        executor: Executor,
        limits: Limits,
        wait: float = 0.0,
        inline: int = MOST_ROWS,
        on_call: Callable[[int, int], object] = lambda requests, rows: None,
    ) -> None:
        self._current, self._executor, self._limits = current, executor, limits
        self._wait, self._inline, self._on_call = wait, inline, on_call
        self._queue: deque[_Waiting] = deque()
        self._busy = False  # a call runs, or is about to

    async def score(self, request: ScoreRequest) -> Answer:
        """Score a request, and return the model that did.

        Raises:
            RefusedError: Too many requests wait.
        """
        loop = asyncio.get_running_loop()
        if len(self._queue) >= self._limits.waiting:
            raise RefusedError(503, BUSY, retry_after=1)
        waiting = _Waiting(request, loop.create_future(), loop.time() + self._limits.seconds)
        self._queue.append(waiting)
        if not self._busy:
            self._busy = True
            self._schedule(loop, self._wait if shares_call(request) else 0.0)
        return await waiting.answer

    def _schedule(self, loop: asyncio.AbstractEventLoop, wait: float = 0.0) -> None:
        if wait > 0:
            loop.call_later(wait, self._call)
        else:
            loop.call_soon(self._call)  # after all requests that have arrived by now are in the queue

    def _call(self) -> None:
        """Score what waits: in the event loop if it is little."""
        loop = asyncio.get_running_loop()
        batch = list(self._take(loop.time()))
        if not batch:
            self._busy = False
            return
        served, requests = self._current(), [waiting.request for waiting in batch]
        rows = sum(len(request.rows) for request in requests)
        self._on_call(len(requests), rows)
        if rows <= self._inline:
            self._deliver(batch, score_requests(served.model, requests), served)
            self._next(loop)
            return

        def finish(done: asyncio.Future[list[Scores | Exception]]) -> None:
            error = done.exception()
            results = [error] * len(batch) if isinstance(error, Exception) else done.result()
            self._deliver(batch, results, served)
            self._next(loop)

        loop.run_in_executor(self._executor, score_requests, served.model, requests).add_done_callback(finish)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._queue:
            self._schedule(loop)
        else:
            self._busy = False

    def _take(self, now: float) -> Iterator[_Waiting]:
        """Take a request from the queue, with the small ones after a small one; drop those that waited too long."""
        rows = 0
        while self._queue:
            first = self._queue[0]
            size = len(first.request.rows)
            if rows and (rows + size > MOST_ROWS or not shares_call(first.request)):
                return
            self._queue.popleft()
            if first.answer.done():  # its client is gone
                continue
            if now > first.deadline:
                first.answer.set_exception(RefusedError(503, BUSY, retry_after=1))
                continue
            yield first
            rows += max(1, size)
            if not shares_call(first.request):
                return

    def _deliver(self, batch: Sequence[_Waiting], results: Sequence[Scores | Exception], served: ServedModel) -> None:
        for waiting, result in zip(batch, results, strict=True):
            if waiting.answer.done():
                continue
            if isinstance(result, Exception):
                waiting.answer.set_exception(result)
            else:
                waiting.answer.set_result((result, served))


def shares_call(request: ScoreRequest) -> bool:
    """Return whether a request is scored faster together with others.

    In a shared call rows are complete: a user's lists and long texts would be encoded for each candidate anew.
    """
    if len(request.rows) > MOST_MERGED:
        return False
    user = request.user or {}
    return not any(
        isinstance(value, list) or (isinstance(value, str) and len(value) > MOST_TEXT) for value in user.values()
    )


def score_requests(model: ScoringModel, requests: Sequence[ScoreRequest]) -> list[Scores | Exception]:
    """Score several requests in one call; one by one if that fails, so that a bad one does not fail the others."""
    if len(requests) > 1:
        try:
            return list(_score_merged(model, requests))
        except Exception:  # of any kind: the request that is to blame gets it below
            pass
    return [_score_one(model, request) for request in requests]


def _score_one(model: ScoringModel, request: ScoreRequest) -> Scores | Exception:
    try:
        if request.user is None:
            return model.score(request.rows)
        return model.score(user=request.user, items=request.rows)
    except Exception as error:
        return error


def _score_merged(model: ScoringModel, requests: Sequence[ScoreRequest]) -> Iterator[Scores]:
    """Score the rows of all requests in one call, and yield the part of each.

    Raises:
        ValueError: A field is in `user` and in an item: its request alone is to be told of it.
    """
    scores = model.score([row for request in requests for row in _complete_rows(request)])
    stop = 0
    for request in requests:
        start, stop = stop, stop + len(request.rows)
        yield {task: values[start:stop] for task, values in scores.items()}


def _complete_rows(request: ScoreRequest) -> Sequence[Row]:
    if request.user is None:
        return request.rows
    if any(not request.user.keys().isdisjoint(row) for row in request.rows):
        raise ValueError("a field is in both parts")
    user: dict[str, Any] = dict(request.user)
    return [{**user, **row} for row in request.rows]
