"""The web application: a request in, probabilities out, and one sentence for whatever cannot be scored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette

from recmtl.errors import RequestError
from recmtl.serving.server.batching import MOST_ROWS, Answer, Batcher
from recmtl.serving.server.body import JSON, Body, Held, Message, Receive, check_headers
from recmtl.serving.server.logs import Log
from recmtl.serving.server.metrics import ServerMetrics
from recmtl.serving.server.pages import REFUSALS, pages
from recmtl.serving.server.request import BUSY, Limits, RefusedError, parse_request, shorten
from recmtl.serving.server.watch import SCORER, Load, ModelWatcher, load_with

Send = Callable[[Message], Awaitable[None]]
CLIENT_GONE = 499  # the status in the metrics of a request without an answer
UNDERWAY = 2  # times the requests that may wait may be read or scored at once
UNREAD = (408, 413, 415, 503)  # statuses of a request whose body may not have been read
MAX_MESSAGE = 500  # characters
FAILED = "the server could not answer this request; its log says why"


@dataclass(frozen=True)
class Outcome:
    """What became of a request: the answer, and what is logged of it."""

    status: int
    body: bytes
    rows: int
    field: str | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


class ScoreServer:
    """An ASGI application that scores requests by the model of a watcher.

    `POST /score` is answered here, before anything else looks at it; the other addresses are Starlette's.

    Args:
        watcher: Holds the model.
        limits: What is taken.
        metrics: Counts what happens.
        log: Is told of failures, and of each request if `log_requests`.
        batch_wait: Seconds for which a small request waits for others.
        watch: Seconds between two looks at the model's folder; 0 never looks.
        inline: Rows up to which the event loop scores by itself.
        log_requests: Whether each request is logged, without its values.
    """

    def __init__(
        self,
        watcher: ModelWatcher,
        limits: Limits,
        metrics: ServerMetrics,
        log: Log,
        batch_wait: float = 0.0,
        watch: float = 0.0,
        inline: int = MOST_ROWS,
        log_requests: bool = False,
    ) -> None:
        self.watcher, self.limits, self.metrics, self.log = watcher, limits, metrics, log
        self.stopping = False  # answers ask clients to close their connections
        self._watch, self._log_requests = watch, log_requests
        self._active = 0  # requests that are read, wait or are scored
        self._held = Held()
        self._executor = ThreadPoolExecutor(1, "score")
        self._batcher = Batcher(lambda: watcher.current, self._executor, limits, batch_wait, inline, metrics.count_call)
        self._pages = Starlette(
            routes=pages(lambda: watcher.current, lambda: self.stopping, metrics),
            exception_handlers=REFUSALS,
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(self.watcher.watch(self._watch)) if self._watch > 0 else None
        try:
            yield
        finally:
            if watching is not None:
                watching.cancel()
            self._executor.shutdown(wait=False)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["path"] != "/score":
            await self._pages(scope, receive, send)
            return
        started = time.perf_counter()
        self._active += 1
        self.metrics.active.inc()
        try:
            outcome = await self._score(scope, receive)
        finally:
            self._active -= 1
            self.metrics.active.dec()
        self._record(outcome, time.perf_counter() - started)
        if outcome.status != CLIENT_GONE:
            await self._answer(send, outcome)

    async def _score(self, scope: MutableMapping[str, Any], receive: Receive) -> Outcome:
        headers, content = dict(scope["headers"]), Body(receive, self.limits, self._held)
        rows = 0
        try:
            check_headers(scope["method"], headers, self.limits)
            if self._active > UNDERWAY * self.limits.waiting:  # their bodies would fill the memory
                raise RefusedError(503, BUSY, retry_after=1)
            body = await content.read()
            if body is None:
                return Outcome(CLIENT_GONE, b"", rows)
            request = parse_request(body, self.limits.rows)
            rows = len(request.rows)
            return Outcome(200, answer_body(await self._batcher.score(request)), rows)
        except Exception as error:
            refused = self._refused(error)
            if refused.status in UNREAD and b"100-continue" not in headers.get(b"expect", b""):
                await content.discard()
            return Outcome(refused.status, refused.body(), rows, refused.field, refusal_headers(refused))
        finally:
            content.release()

    def _record(self, outcome: Outcome, seconds: float) -> None:
        self.metrics.requests.labels(outcome.status).inc()
        self.metrics.seconds.observe(seconds)
        if outcome.status == 200:
            self.metrics.rows.observe(outcome.rows)
        if self._log_requests:
            facts = {"status": outcome.status, "rows": outcome.rows, "field": outcome.field}
            self.log("request", **facts, ms=round(1000 * seconds, 3))

    def _refused(self, error: Exception) -> RefusedError:
        """Return what a client is told of an error; one of ours is logged, and not shown."""
        if isinstance(error, RefusedError):
            return error
        if isinstance(error, RequestError):
            message = shorten(" ".join(str(error).split()), MAX_MESSAGE)
            return RefusedError(422, message, error.field and shorten(error.field), error.row)
        self.log.failure("request failed", error)
        return RefusedError(503 if isinstance(error, MemoryError) else 500, FAILED, retry_after=None)

    async def _answer(self, send: Send, outcome: Outcome) -> None:
        length = str(len(outcome.body)).encode()
        headers = [(b"content-type", JSON), (b"content-length", length), *outcome.headers]
        if self.stopping:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": outcome.status, "headers": headers})
        await send({"type": "http.response.body", "body": outcome.body})


def refusal_headers(refused: RefusedError) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of a refusal, beside those of any answer."""
    headers = []
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    if refused.status == 405:
        headers.append((b"allow", b"POST"))
    if refused.status in UNREAD:
        headers.append((b"connection", b"close"))
    return tuple(headers)


def answer_body(answer: Answer) -> bytes:
    """Return the JSON body of scores; a number that is not finite becomes `null`."""
    scores, served = answer
    tasks = {task: by_class(values, served.contract.classes.get(task)) for task, values in scores.items()}
    return orjson.dumps({"tasks": tasks, "model": served.version})


def by_class(values: Any, classes: Sequence[str] | None) -> Any:
    """Return the scores of a task as lists, of a multi-class task one for each class."""
    return values.tolist() if classes is None else dict(zip(classes, values.T.tolist(), strict=True))


def create_app(
    model: str | Path,
    *,
    load: Load | None = None,
    limits: Limits | None = None,
    log: Log | None = None,
    batch_wait: float = 0.0,
    watch: float = 0.0,
    log_requests: bool = False,
) -> ScoreServer:
    """Build the application of one worker.

    Args:
        model: The exported model.
        load: Loads it; by default `recmtl.Scorer`.
        limits: What a request may be.
        log: Where events go; to standard error by default.
        batch_wait: Seconds for which a small request waits for others.
        watch: Seconds between two looks at the folder; 0 never looks.
        log_requests: Whether each request is logged.
    """
    log, metrics = log or Log(), ServerMetrics()
    watcher = ModelWatcher(Path(model), load or load_with(SCORER), log, on_change=metrics.count_change)
    return ScoreServer(watcher, limits or Limits(), metrics, log, batch_wait, watch, log_requests=log_requests)
