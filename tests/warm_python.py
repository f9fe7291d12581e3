"""A Python that starts warm: each process is forked from one that has imported torch, recmtl and what they load.

`warm_python` makes a program that is called like `python`, with `-m module`, `-c code` or a script. It passes its
arguments, environment, working directory and streams to a server, whose fork does the work; signals that it gets go
on to the fork, it ends as the fork ends, and if it is killed, so is the fork. What only a real start shows (what is
imported, and when) needs `sys.executable`.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
IMPORTED = ["pandas", "pytest", "recmtl.cli.running", "recmtl.comparison", "torch._dynamo", "torch.distributed.run"]
IMPORTED += ["torch.utils.tensorboard", "matplotlib.backends.backend_agg", "scipy.stats", "sklearn.linear_model"]
IMPORTED += ["attrs", "docstring_parser", "pyarrow.acero", "pyarrow.dataset", "rich._emoji_codes", "tests.unseen"]
CLIENT = """#!{python} -SE
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
job = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "place": os.getcwd(), "program": sys.argv[0]}}
content = json.dumps(job).encode()
socket.send_fds(connection, [len(content).to_bytes(8, "little")], [0, 1, 2])
connection.sendall(content)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
status = int(connection.recv(16) or b"1")
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@contextlib.contextmanager
def warm_python(folder: Path) -> Iterator[Path]:
    """Start the server, and give the path of the program."""
    address, program = folder / "socket", folder / "python"
    program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen([sys.executable, __file__, str(address)], env=environment, stdin=subprocess.DEVNULL)
    while not address.exists():
        assert server.poll() is None, "the server of warm processes has ended"
        time.sleep(0.01)
    yield program
    server.kill()
    server.wait()


def serve(address: str) -> None:
    """Import what takes seconds, and fork a process for each connection."""
    for name in IMPORTED:
        importlib.import_module(name)
    for command in importlib.import_module("recmtl.cli.catalogue").load_catalogue():
        importlib.import_module(f"recmtl.cli.{command}")
    gc.freeze()  # processes look for garbage among what they make themselves
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{address}.new")
    listening.listen(64)
    os.rename(f"{address}.new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            keep(connection)


def keep(connection: socket.socket) -> None:
    """Fork the process that does the work, pass signals on to it, and say how it ended."""
    size, streams, _, _ = socket.recv_fds(connection, 8, 3)
    content = b""
    while len(content) < int.from_bytes(size, "little"):
        content += connection.recv(1 << 16)
    pid = os.fork()
    if pid == 0:
        connection.close()
        work(streams, **json.loads(content))
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(pid)
    while ended not in (ready := select.select([ended, connection], [], [])[0]):
        for number in connection.recv(16) or [signal.SIGKILL] if connection in ready else ():
            os.kill(pid, number)
    with contextlib.suppress(OSError):  # nobody waits for a client that was killed
        connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def work(streams: list[int], arguments: list[str], environment: dict[str, str], place: str, program: str) -> None:
    """Do what Python would do with these arguments, and exit as it would."""
    for stream, number in zip(streams, range(3), strict=True):
        os.dup2(stream, number)
    os.chdir(place)
    os.environ.clear()
    os.environ.update(environment)
    sys.executable = program
    importlib.import_module("torch").set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    status: Any = 0
    try:
        run(arguments)
    except SystemExit as end:
        status = end.code
    except BaseException:  # as Python would print it
        traceback.print_exc()
        status = 1
    if isinstance(status, str):
        print(status, file=sys.stderr)  # noqa: T201
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


def run(arguments: list[str]) -> None:
    """Run a module, code or a script."""
    first, *others = [argument for argument in arguments if argument != "-u"]
    if first == "-m":
        sys.argv = others
        sys.path.insert(0, os.getcwd())
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *others[1:]]
        sys.path.insert(0, "")
        exec(compile(others[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [first, *others]
        sys.path.insert(0, str(Path(first).resolve().parent))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
