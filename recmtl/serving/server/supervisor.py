"""The process that holds the listening socket: starts workers, starts those again that die, and stops all of them.

``python -m recmtl.serving.server.supervisor SETTINGS HOST PORT WORKERS`` is what `recmtl serve` becomes.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from json import loads
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prometheus_client.multiprocess import mark_process_dead

from recmtl.errors import UsageError
from recmtl.serving.server.logs import Log
from recmtl.serving.server.metrics import SHARED_FOLDER
from recmtl.serving.server.served import Contract
from recmtl.serving.server.worker import DRAIN, Settings

BACKLOG = 2048
SO_ATTACH_FILTER = 26  # of Linux; Python does not name it
LINE = 1 << 24  # bytes of what a worker tells
LONGEST_PAUSE = 30.0  # seconds between two tries to start a worker again


class StartError(RuntimeError):
    """A worker that cannot load its model."""


class Supervisor:
    """Keeps a number of workers running.

    Args:
        settings: What each worker is started with.
        listener: The listening socket.
        workers: How many.
        metrics: The folder in which workers share their metrics.
        log: Is told of starts and ends.
    """

    def __init__(self, settings: Settings, listener: socket.socket, workers: int, metrics: Path, log: Log) -> None:
        self._settings, self._listener, self._count = settings, listener, workers
        self._metrics, self._log = metrics, log
        self._running: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            StartError: The first worker does not start.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        starting, stopping = asyncio.create_task(self._start()), asyncio.create_task(self._stopping.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await self._stop()
            return
        first = starting.result()
        tasks = [asyncio.create_task(self._keep(first if slot == 0 else None)) for slot in range(self._count)]
        host, port = self._listener.getsockname()[:2]
        self._log("listening", host=host, port=port, workers=self._count, pid=os.getpid())
        await stopping
        self._log("stopping")
        drop_new_connections(self._listener)
        self._listener.close()  # the workers close theirs once they have accepted what waits
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stop()
        self._log("stopped")

    async def _keep(self, process: asyncio.subprocess.Process | None) -> None:
        """Keep one worker running: start another when it ends."""
        pause = 1.0
        while not self._stopping.is_set():
            if process is None:
                try:
                    process = await self._start()
                except (StartError, OSError) as error:
                    self._log("worker not started", "error", reason=str(error), again_in=pause)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
            pause = 1.0
            status = await process.wait()
            self._forget(process)
            process = None
            if not self._stopping.is_set():
                self._log("worker ended", "error", status=status)

    async def _start(self) -> asyncio.subprocess.Process:
        """Start a worker and wait until it answers requests.

        Raises:
            StartError: It ends before.
        """
        ours, theirs = socket.socketpair()
        settings = replace(self._settings, listener=self._listener.fileno(), control=theirs.fileno())
        environment = {**os.environ, SHARED_FOLDER: str(self._metrics)}
        process = await asyncio.create_subprocess_exec(
            *program("worker"),
            settings.to_json(),
            pass_fds=(settings.listener, settings.control),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
        )
        theirs.close()
        self._running.add(process)
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE)
        told: dict[str, Any] = loads(await reader.readline() or b"{}")
        if "ready" not in told:
            status = await process.wait()
            self._forget(process)
            raise StartError(told.get("failed") or f"a worker ended with status {status} before it was ready")
        process.control = writer  # type: ignore[attr-defined]  # open as long as the worker is to run
        if self._settings.contract is None:
            self._settings = replace(self._settings, contract=Contract(**told["contract"]))
        self._log("worker ready", pid=process.pid, model=told["ready"])
        return process

    def _forget(self, process: asyncio.subprocess.Process) -> None:
        self._running.discard(process)
        # Its counters stay, its gauges go.
        mark_process_dead(process.pid, str(self._metrics))  # type: ignore[no-untyped-call]

    async def _stop(self) -> None:
        """Stop all workers; kill those that do not end in time."""
        seconds = self._settings.limits.seconds + DRAIN + 5
        for process in list(self._running):
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        ends = [asyncio.create_task(process.wait()) for process in self._running]
        if ends:
            await asyncio.wait(ends, timeout=seconds)
        for process in list(self._running):
            if process.returncode is None:
                self._log("worker killed", "error", pid=process.pid, after=seconds)
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()


@dataclass(frozen=True)
class Server:
    """What `recmtl serve` starts.

    Args:
        settings: What each worker is started with.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        workers: How many processes answer.
    """

    settings: Settings
    host: str
    port: int
    workers: int

    def to_arguments(self) -> list[str]:
        """Return the command line that runs this server in a process that loads no more than it needs."""
        return [*program("supervisor"), self.settings.to_json(), self.host, str(self.port), str(self.workers)]

    @classmethod
    def from_arguments(cls, arguments: Sequence[str]) -> Server:
        """Read the last arguments of such a command line."""
        settings, host, port, workers = arguments
        return cls(Settings.from_json(settings), host, int(port), int(workers))

    def run(self) -> None:
        """Listen and serve until SIGTERM or SIGINT.

        Raises:
            UsageError: The address cannot be taken, or the model not be loaded.
        """
        log = Log()
        with listen(self.host, self.port) as listener, TemporaryDirectory(prefix="recmtl-serve-") as metrics:
            try:
                asyncio.run(supervise(self.settings, listener, self.workers, Path(metrics), log))
            except StartError as error:
                raise UsageError(str(error)) from None


def program(module: str) -> list[str]:
    """Return the command that runs a module of this folder; files of the working directory take no module's place."""
    return [sys.executable, "-P", "-m", f"recmtl.serving.server.{module}"]


async def supervise(settings: Settings, listener: socket.socket, workers: int, metrics: Path, log: Log) -> None:
    """Run a supervisor in the running event loop."""
    await Supervisor(settings, listener, workers, metrics, log).run()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on an address.

    Raises:
        UsageError: The address cannot be taken.
    """
    listener = None
    try:
        family, kind, number, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, number)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise UsageError(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
    return listener


def drop_new_connections(listener: socket.socket) -> None:
    """Let a listening socket, in all processes, accept what waits and nothing new.

    A socket that is closed resets connections that were established but not accepted yet, whose requests would be
    lost. So the kernel drops the first packet of a new connection from now on: its client tries again within a second,
    and is then refused. Elsewhere than on Linux there is no such filter.
    """
    if sys.platform != "linux":
        return
    # The flags are byte 13 of a TCP header; a packet with SYN (2) and without ACK (16) is dropped.
    program = ((0x30, 0, 0, 13), (0x54, 0, 0, 18), (0x15, 0, 1, 2), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFF))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    with suppress(OSError):  # a sandbox may know no filters
        listener.setsockopt(
            socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(program), ctypes.addressof(code))
        )


def main(arguments: Sequence[str]) -> int:
    """Run a server and return its exit status; bad input ends in one line."""
    try:
        Server.from_arguments(arguments).run()
    except (UsageError, OSError) as error:
        sys.stderr.write(f"recmtl: {' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
