"""Clients that keep a server busy, and count what they send and what comes back.

python -m benchmarks.http_load PORT REQUEST_FILE CLIENTS SECONDS prints the counts as JSON.
"""

import json
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson


class Connection:
    """A blocking HTTP connection that stays open.

    Args:
        port: The port on this machine.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, sent: bytes) -> tuple[int, bytes, bool]:
        """Return the status and body of an answer, and whether the server closes the connection.

        Raises:
            ConnectionError: There is none.
        """
        self._socket.sendall(sent)
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines)
        while len(body) < int(headers[b"content-length"]):
            body += self._more()
        return int(status.split()[1]), body, headers.get(b"connection") == b"close"

    def _more(self) -> bytes:
        piece = self._socket.recv(1 << 16)
        if not piece:
            raise ConnectionError("closed before the answer")
        return piece

    def close(self) -> None:
        self._socket.close()


def ask_once(port: int, sent: bytes) -> tuple[int, bytes]:
    """Return the status and body of the answer to one request."""
    connection = Connection(port)
    try:
        return connection.ask(sent)[:2]
    finally:
        connection.close()


def post(body: object) -> bytes:
    """Return the bytes of a request to score."""
    text = orjson.dumps(body)
    return b"POST /score HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(text),
        text,
    )


@dataclass
class Load:
    """Threads that send one request after the other until they are told to stop, or nobody listens."""

    port: int
    sent: bytes
    clients: int
    statuses: Counter[int] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    lost: int = 0

    def __post_init__(self) -> None:
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._client) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop all clients after their present request."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _client(self) -> None:
        connection = None
        while not self._over.is_set():
            try:
                connection = connection or Connection(self.port)
            except ConnectionError:
                return  # nobody listens: the request was not sent
            started = time.perf_counter()
            try:
                status, body, closes = connection.ask(self.sent)
            except ConnectionError:
                with self._lock:
                    self.lost += 1
                return
            with self._lock:
                self.seconds.append(time.perf_counter() - started)
                self.statuses[status] += 1
                self.models[orjson.loads(body).get("model", "")] += 1
            if closes:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile."""
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3)}


def run_clients(port: int, sent: bytes, clients: int, seconds: float) -> dict[str, Any]:
    """Run clients in this process for some seconds, and return what came back."""
    load = Load(port, sent, clients)
    time.sleep(seconds)
    load.stop()
    return {
        "clients": clients,
        "sent": sum(load.statuses.values()) + load.lost,
        "answered": load.statuses[200],
        "lost": load.lost,
        "per_second": round(sum(load.statuses.values()) / seconds),
        "milliseconds": milliseconds(load.seconds),
        "models": len(load.models),
    }


def main(port: str, request: str, clients: str, seconds: str) -> None:
    print(json.dumps(run_clients(int(port), Path(request).read_bytes(), int(clients), float(seconds))))


if __name__ == "__main__":
    main(*sys.argv[1:])
