"""The `serve` command; ``python -m recmtl.cli.serve MODEL`` is the same where torch is not installed."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from importlib.util import find_spec
from inspect import Parameter, signature
from pathlib import Path

from recmtl.cli.terminal import BAD_INPUT, end
from recmtl.errors import UsageError

NEEDED = ("uvicorn", "httptools", "starlette", "orjson", "prometheus_client", "onnxruntime")


def serve_command(
    model: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int = 1,
    threads: int = 1,
    max_rows: int = 10_000,
    max_body: int = 8 << 20,
    max_waiting: int = 256,
    timeout: float = 10.0,
    batch_wait: float = 0.0,
    watch: float = 2.0,
    log_requests: bool = False,
) -> None:
    """Answer requests over HTTP with an exported model.

    Args:
        model: The folder that `recmtl export` wrote, or a link to one.
        host: The address to listen on; by default only this machine can connect.
        port: The port to listen on; 0 takes a free one, which the log names.
        workers: Processes with a model each: as many as there are cores to use.
        threads: Threads of a worker's network.
        max_rows: Rows of a request.
        max_body: Bytes of a request's body.
        max_waiting: Requests that may wait in a worker; further ones get status 503 and `Retry-After`.
        timeout: Seconds that a body may take, and a request may wait.
        batch_wait: Milliseconds for which a request of few rows waits for others, to be scored with them.
        watch: Seconds between two looks for a new model; 0 never looks.
        log_requests: Whether to log each request, without its values.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"`recmtl serve` needs {missing[0]!r}: pip install 'recmtl[serve]'")
    counts = {"workers": workers, "threads": threads, "max_rows": max_rows, "max_body": max_body}
    for name, value in {**counts, "max_waiting": max_waiting}.items():
        if value < 1:
            raise UsageError(f"`--{name}` must be at least 1, got {value}")
    if not timeout > 0 or not batch_wait >= 0 or not watch >= 0:
        raise UsageError("`--timeout` must be above 0, `--batch_wait` and `--watch` must be 0 or more")
    if not 0 <= port < 65_536:
        raise UsageError(f"`--port` must be from 0 to 65535, got {port}")
    from recmtl.serving.server.request import Limits
    from recmtl.serving.server.supervisor import Server
    from recmtl.serving.server.worker import Settings

    limits = Limits(max_rows, max_body, timeout, max_waiting)
    settings = Settings(str(model.absolute()), 0, 0, threads, limits, batch_wait / 1000, watch, log_requests)
    become(Server(settings, host, port, workers).to_arguments())


def become(command: list[str]) -> None:
    """Replace this process, which has loaded what training needs, by a small one."""
    sys.stdout.flush()
    os.execv(command[0], command)


def main() -> int:
    """Run the command with a parser of the standard library, which loads nothing beside."""
    parser = ArgumentParser("python -m recmtl.cli.serve", description=(serve_command.__doc__ or "").splitlines()[0])
    for name, parameter in signature(serve_command, eval_str=True).parameters.items():
        if parameter.default is Parameter.empty:
            parser.add_argument(name, type=parameter.annotation)
        elif parameter.annotation is bool:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=parameter.annotation, default=parameter.default)
    try:
        serve_command(**vars(parser.parse_args()))
    except UsageError as error:
        return end(str(error), BAD_INPUT)
    return 0


if __name__ == "__main__":
    sys.exit(main())
