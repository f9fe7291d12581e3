"""HTTP/1.1 with limits on its headers, which uvicorn has none of: their bytes, and the time until they are complete."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from recmtl.serving.server.request import RefusedError

MAX_HEADERS = 64 << 10  # bytes


class LimitedProtocol(HttpToolsProtocol):
    """A connection that is closed if it begins a request whose headers do not arrive, or do not end."""

    header_seconds = 10.0  # until the headers of a request are complete
    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _in_headers = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time limit of the first request."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Drop the time limit."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, unless the headers are too long by now."""
        if self._in_headers:
            self._header_bytes += len(data)
            if self._timer is None:
                self._start_timer()
        super().data_received(data)
        # A body may have come with the headers: what counts is that they have not ended.
        if self._in_headers and self._header_bytes > MAX_HEADERS and not self.transport.is_closing():
            self._refuse(431, f"the headers have more than {MAX_HEADERS:,} bytes")

    def on_message_begin(self) -> None:
        """Start the time limit of a request that was sent right after another."""
        if self._timer is None:
            self._start_timer()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """End the time limit."""
        self._in_headers = False
        self._header_bytes = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the headers of the next request; their time begins with their first byte."""
        self._in_headers = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are not HTTP."""
        self._refuse(400, "the request is not valid HTTP/1.1")

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self.header_seconds, self._late)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._refuse(408, f"the headers did not arrive within {self.header_seconds:g} seconds")

    def _refuse(self, status: int, message: str) -> None:
        """Answer and close, unless the answer to an earlier request is still being written."""
        if self.cycle is None or self.cycle.response_complete:
            body = RefusedError(status, message).body()
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()


def limited_protocol(seconds: float) -> type[LimitedProtocol]:
    """Return the class of connections with a time limit for headers."""
    return type("TimedProtocol", (LimitedProtocol,), {"header_seconds": seconds})
