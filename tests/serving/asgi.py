"""Calls an ASGI application without a server: a request in bytes, in pieces, or one that never ends."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

JSON = ((b"content-type", b"application/json"),)


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


async def call(
    app: Callable[..., Coroutine[Any, Any, None]],
    body: bytes | Iterable[bytes] = b"",
    headers: Sequence[tuple[bytes, bytes]] = JSON,
    method: str = "POST",
    path: str = "/score",
    ends: bool = True,
) -> Answer | None:
    """Return the answer, or None if there is none as the client is gone; a body that does not end stays open."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    sent = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if ends:
        sent[-1]["more_body"] = False
    messages, answered = iter(sent), Answer(0, {}, b"")

    async def receive() -> dict[str, Any]:
        message = next(messages, None)
        if message is None:
            await asyncio.Event().wait()
        return message or {}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            answered.status, answered.headers = message["status"], dict(message["headers"])
        else:
            answered.body += message.get("body", b"")

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "server": ("test", 80),
        "client": ("test", 1),
        "headers": list(headers),
        "state": {},
    }
    await app(scope, receive, send)
    return answered if answered.status else None


def ask(app: Any, body: Any = b"", **settings: Any) -> Answer:
    """Return the answer to one request; a body that is not bytes becomes JSON."""
    content = body if isinstance(body, bytes | list) else orjson.dumps(body)
    answer = asyncio.run(call(app, content, **settings))
    assert answer is not None
    return answer
