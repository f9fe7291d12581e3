"""One worker: loads the model, tells the process that started it, and answers requests until it is stopped.

``python -m recmtl.serving.server.worker SETTINGS`` is started by `recmtl.serving.server.supervisor`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from recmtl.serving.server.app import ScoreServer
from recmtl.serving.server.logs import Log, LogHandler, one_line
from recmtl.serving.server.metrics import ServerMetrics
from recmtl.serving.server.protocol import limited_protocol
from recmtl.serving.server.request import Limits
from recmtl.serving.server.served import Contract
from recmtl.serving.server.watch import SCORER, ModelWatcher, load_with

DRAIN = 0.5  # seconds for which a worker that is to stop still answers, and asks clients to close their connections
KEEP_ALIVE = 75  # seconds for which an idle connection stays open
NOT_STARTED = 2  # exit status


@dataclass(frozen=True)
class Settings:
    """What a worker is started with.

    Args:
        model: The exported model.
        listener: The file descriptor of the listening socket.
        control: That of the socket to the process that started it.
        threads: Threads of the network.
        limits: What requests may be.
        batch_wait: Seconds for which a small request waits for others.
        watch: Seconds between two looks at the model's folder.
        log_requests: Whether requests are logged.
        scorer: The class that loads a model, as ``module:name``.
        contract: What clients rely on, from the first worker that started.
    """

    model: str
    listener: int
    control: int
    threads: int = 1
    limits: Limits = field(default_factory=Limits)
    batch_wait: float = 0.0
    watch: float = 0.0
    log_requests: bool = False
    scorer: str = SCORER
    contract: Contract | None = None

    def to_json(self) -> str:
        """Return the settings as a program argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Read the settings from a program argument."""
        found = json.loads(text)
        contract = found["contract"] and Contract(**found["contract"])
        return cls(**{**found, "limits": Limits(**found["limits"]), "contract": contract})


class WorkerServer(uvicorn.Server):
    """Uvicorn, which leaves signals to the worker."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals as they are."""
        yield


def main(arguments: list[str]) -> int:
    """Run a worker and return its exit status."""
    settings = Settings.from_json(arguments[0])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the supervisor stops its workers by SIGTERM
    log = Log(os.getpid())
    uvicorn_log = logging.getLogger("uvicorn")
    uvicorn_log.addHandler(LogHandler(log))
    uvicorn_log.propagate = False
    try:
        app = load_app(settings, log)
    except Exception as error:  # of any kind: the supervisor prints it
        tell(settings.control, {"failed": one_line(error)})
        return NOT_STARTED
    gc.collect()
    gc.freeze()  # what lives as long as the worker is not searched again
    asyncio.run(serve(app, settings))
    return 0


def load_app(settings: Settings, log: Log) -> ScoreServer:
    """Load the model and build the application."""
    metrics = ServerMetrics()
    load = load_with(settings.scorer, settings.threads)
    watcher = ModelWatcher(Path(settings.model), load, log, settings.contract, metrics.count_change)
    return ScoreServer(
        watcher,
        settings.limits,
        metrics,
        log,
        settings.batch_wait,
        settings.watch,
        log_requests=settings.log_requests,
    )


async def serve(app: ScoreServer, settings: Settings) -> None:
    """Answer requests until SIGTERM, or until the supervisor is gone."""
    listener = socket.socket(fileno=settings.listener)
    listener.setblocking(False)
    server = WorkerServer(server_config(app, settings.limits))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if not app.stopping:
            app.stopping = True
            loop.call_later(DRAIN, setattr, server, "should_exit", True)

    loop.add_signal_handler(signal.SIGTERM, stop)
    control = socket.socket(fileno=os.dup(settings.control))
    control.setblocking(False)
    loop.add_reader(control, stop)  # it can be read only once the supervisor has closed its end
    contract = asdict(app.watcher.contract)
    tell(settings.control, {"ready": app.watcher.current.version, "contract": contract})
    await server.serve(sockets=[listener])
    loop.remove_reader(control)


def server_config(app: ScoreServer, limits: Limits) -> uvicorn.Config:
    """Return how uvicorn runs an application."""
    return uvicorn.Config(
        app,
        http=limited_protocol(limits.seconds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who asks
        backlog=2048,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=round(limits.seconds) + 1,
    )


def tell(control: int, facts: dict[str, Any]) -> None:
    """Send facts to the supervisor, in one line."""
    os.write(control, f"{json.dumps(facts)}\n".encode())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
