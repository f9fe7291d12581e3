"""Connections to a worker, by bytes: what is not HTTP, what never ends, and what comes in one piece."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import orjson

from recmtl.serving.server.app import create_app
from recmtl.serving.server.request import Limits
from recmtl.serving.server.worker import WorkerServer, server_config
from tests.serving.fake import FakeScorer, write_model

ROW = {"user": "u", "time": 31, "item": "a", "price": 2.5}
SECONDS = 0.15


def head(length: int | None, *headers: str) -> bytes:
    size = "transfer-encoding: chunked" if length is None else f"content-length: {length}"
    lines = ["POST /score HTTP/1.1", "host: test", "content-type: application/json", size, *headers]
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n"


BODY = orjson.dumps({"rows": [ROW]})
GOOD = head(len(BODY)) + BODY
Exchange = Callable[..., Awaitable[list[tuple[int, bytes]]]]


async def answers(port: int, *sent: bytes, pause: float = 0.0, count: int | None = None) -> list[tuple[int, bytes]]:
    """Return the statuses and bodies that a connection gets; until it is closed if there is no count."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in sent:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(pause)
    found: list[tuple[int, bytes]] = []
    async with asyncio.timeout(10):
        while count is None or len(found) < count:
            text = await reader.readline()
            if not text:
                break
            length = 0
            while (line := await reader.readline()).strip():
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            found.append((int(text.split()[1]), await reader.readexactly(length)))
    writer.close()
    await writer.wait_closed()
    return found


def test_connections(tmp_path: Path) -> None:
    limits = Limits(seconds=SECONDS, body=100_000)
    app = create_app(write_model(tmp_path), load=FakeScorer, limits=limits)

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server = WorkerServer(server_config(app, limits))
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        piece = b"%x\r\n%s\r\n" % (50_000, b" " * 50_000)
        cases = {
            "slow headers": (answers(port, GOOD[:30]), 408, "headers did not arrive"),
            "no headers": (answers(port), 408, "headers did not arrive"),
            "second slow": (answers(port, GOOD + GOOD[:30]), 408, "headers did not arrive"),
            "large headers": (answers(port, b"GET / HTTP/1.1\r\na: " + b"b" * 100_000), 431, "65,536 bytes"),
            "no HTTP": (answers(port, b"\x16\x03\x01\x02\x00\x01"), 400, "not valid HTTP"),
            "slow body": (answers(port, GOOD[:-3]), 408, "body did not arrive"),
            "chunks": (answers(port, head(None) + 8 * piece), 413, "more than 100,000 bytes"),
            "announced": (answers(port, head(10**9, "expect: 100-continue")), 413, "1,000,000,000 bytes"),
            "upgrade": (answers(port, head(0, "connection: upgrade", "upgrade: websocket"), count=1), 400, "not JSON"),
        }
        results = await asyncio.gather(*(exchange for exchange, _, _ in cases.values()))
        for (name, (_, status, phrase)), found in zip(cases.items(), results, strict=True):
            assert found[-1][0] == status, (name, found)
            assert phrase in orjson.loads(found[-1][1])["error"], (name, found)
        assert results[2][0][0] == 200
        pipelined = await answers(port, GOOD * 5, count=5)
        assert [status for status, _ in pipelined] == [200] * 5
        idle = await answers(port, GOOD, GOOD, pause=2 * SECONDS, count=2)  # an idle connection stays open
        assert [status for status, _ in idle] == [200, 200]
        server.should_exit = True
        await serving

    asyncio.run(run())
