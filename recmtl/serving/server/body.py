"""The bytes of a request: read within the limits of size and time, and what the headers say of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from recmtl.serving.server.request import BUSY, Limits, RefusedError, shorten

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
JSON = b"application/json"
OVERFLOW = 4  # a body that is too large is read on to so many times its limit
DISCARD_SECONDS = 1.0


@dataclass
class Held:
    """The bytes of all bodies that a worker holds."""

    size: int = 0


class Body:
    """The body of a request, as far as it has arrived.

    Args:
        receive: Waits for the next piece.
        limits: Its bytes and time.
        held: Counts the bytes of this body and all others.
    """

    def __init__(self, receive: Receive, limits: Limits, held: Held) -> None:
        self._receive, self._limits, self._held = receive, limits, held
        self._ended, self._size = False, 0

    async def read(self) -> bytes | None:
        """Return the whole body; ``None`` if the client went away.

        Raises:
            RefusedError: It is too large, too slow, or too much beside the bodies of other requests.
        """
        pieces = []
        try:
            async with asyncio.timeout(self._limits.seconds):
                while not self._ended:
                    message = await self._next()
                    if message["type"] != "http.request":
                        return None
                    pieces.append(message.get("body", b""))
                    self._size += len(pieces[-1])
                    self._held.size += len(pieces[-1])
                    if self._size > self._limits.body:
                        raise RefusedError(413, f"the body has more than {self._limits.body:,} bytes")
                    if self._held.size > self._limits.bodies and self._held.size > self._size:
                        raise RefusedError(503, BUSY, retry_after=1)
        except TimeoutError:
            raise RefusedError(408, f"the body did not arrive within {self._limits.seconds:g} seconds") from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self) -> None:
        """Take this body, which was answered, out of the count."""
        self._held.size -= self._size

    async def discard(self) -> None:
        """Read the rest of a body that is refused, within limits: most clients read an answer only then."""
        left = OVERFLOW * self._limits.body
        try:
            async with asyncio.timeout(min(DISCARD_SECONDS, self._limits.seconds)):
                while left > 0 and not self._ended:
                    left -= len((await self._next()).get("body", b""))
        except TimeoutError:
            return

    async def _next(self) -> Message:
        message = await self._receive()
        self._ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message


def check_headers(method: str, headers: Mapping[bytes, bytes], limits: Limits) -> None:
    """Check what the headers say about a body before it is read.

    Raises:
        RefusedError: The method, content type, encoding or length is not accepted.
    """
    if method != "POST":
        raise RefusedError(405, "`/score` takes POST alone")
    length = headers.get(b"content-length", b"")
    if length.isdigit() and int(length) > limits.body:
        raise RefusedError(413, f"the body has {int(length):,} bytes, and at most {limits.body:,} are taken")
    kind, _, parameters = headers.get(b"content-type", b"").partition(b";")
    if kind.strip().lower() != JSON:
        found = f", not {shorten(kind.decode('latin-1'))!r}" if kind else ""
        raise RefusedError(415, f"the content type must be 'application/json'{found}")
    charset = parameters.lower().replace(b" ", b"").replace(b'"', b"")
    if charset.startswith(b"charset=") and charset not in (b"charset=utf-8", b"charset=us-ascii"):
        raise RefusedError(415, "the body must be UTF-8")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RefusedError(415, "the body must not be compressed")
