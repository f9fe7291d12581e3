"""A server that imports everything once and forks a process for each command, with a fault injected.

It reads a line of JSON per command from standard input, and answers with the process id and then the exit status.
"""

import ctypes
import gc
import hashlib
import importlib
import itertools
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from recmtl.cli import main as command
from recmtl.cli.catalogue import load_catalogue
from recmtl.cli.main import main
from recmtl.comparison import jobs as cells
from recmtl.data import PreparedData
from recmtl.tuning import worker

# Audit events of changes to files.
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile", "os.truncate"}
IMPORTED = ["torch.utils.tensorboard", "torch.utils.serialization", "attrs", "docstring_parser", "rich._emoji_codes"]
IMPORTED += ["pyarrow.acero", "pyarrow.dataset", "encodings.utf_8_sig"]
CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
WRITING = os.O_WRONLY | os.O_RDWR


class Forked:
    """A replacement of `subprocess.Popen` for `recmtl` and the workers of `tune`: a fork, with all that is imported."""

    def __init__(self, command: Sequence[str], *, stdout: Any, stderr: Any, **_: object) -> None:
        self.returncode: int | None = None
        if stdout == subprocess.PIPE:
            self._fork_worker(stderr.fileno())
        elif (pid := os.fork()) == 0:
            leave(lambda: main(command[3:]), stdout.fileno(), stderr.fileno())
        else:
            self.pid = pid

    def _fork_worker(self, stderr: int) -> None:
        (requests, own_requests), (own_replies, replies) = os.pipe(), os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(requests, 0)
            for descriptor in (requests, own_requests, own_replies):
                os.close(descriptor)
            leave(worker.main, replies, stderr)
        os.close(requests)
        os.close(replies)
        self.stdin, self.stdout = os.fdopen(own_requests, "wb", 0), os.fdopen(own_replies, "rb", 0)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        while self.poll() is None:
            time.sleep(0.01)
        return self.returncode or 0

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    kill = terminate


def leave(work: Callable[[], int], stdout: int, stderr: int) -> None:
    """Do the work of a forked process and exit as the interpreter would."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    status = 1
    try:
        status = work()
        sys.stdout.flush()
    except BaseException:  # as Python would print it
        traceback.print_exc()
    finally:
        os._exit(status)


def watch(folder: str, last: int | None, counted: str) -> None:
    """Count the changes to files in a folder, and kill the process just before one of them.

    Args:
        folder: The folder.
        last: The number of that change, from 0; ``None`` kills nothing.
        counted: The file to write the count to.
    """
    numbers = itertools.count()
    with open(counted, "wb", buffering=0) as file:
        descriptor = os.dup(file.fileno())

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES and not (event == "open" and (arguments[2] or 0) & WRITING):
            return
        path = arguments[0]
        if isinstance(path, str | Path) and (not os.path.isabs(path) or str(path).startswith(folder)):
            number = next(numbers)
            os.pwrite(descriptor, b"%d" % (number + 1), 0)
            if number == last:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)


def run(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    watched: Sequence[Any] = (),
    limits: Mapping[str, int] | None = None,
    powerless: bool = False,
    place: str = "/",
) -> int:
    """Run a command with faults injected.

    Args:
        arguments: The command and its options.
        environment: Environment variables to set.
        watched: The arguments of `watch`.
        limits: Limits by the names of resources in `resource`.
        powerless: Whether root must obey file permissions, too.
        place: The working directory.
    """
    os.chdir(place)
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes background jobs ignore it
    if watched:
        watch(*watched)
    if limits and "RLIMIT_FSIZE" in limits:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    if powerless:
        nothing = (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(CAPABILITIES, 0), nothing)
    for name, limit in (limits or {}).items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    return main(arguments)


def warm_up() -> None:
    """Import what is otherwise imported lazily, and replace what is slow and not tested: drawing, waiting for disks."""
    for name in ("recmtl.cli.running", *(f"recmtl.cli.{name}" for name in load_catalogue()), *IMPORTED):
        importlib.import_module(name)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    Figure.savefig = lambda self, file, **_: Path(file).write_bytes(b"a picture")
    os.fsync = lambda descriptor: None  # what a killed process has written stays written


def digest_command(data: Path) -> None:
    """Print a hash of all rows of a prepared dataset.

    Args:
        data: The dataset.
    """
    opened = PreparedData.open(data)
    digest = hashlib.sha256(repr((opened.schema.fingerprint, opened.notes)).encode())
    for name, rows in sorted(opened.splits.items()):
        digest.update(repr((name, rows.keys.to_pydict())).encode())
        digest.update(rows.packed().numpy().data)
    print(digest.hexdigest())  # noqa: T201


def serve() -> None:
    """Answer each line with the process id, and with the exit status when the process has ended."""
    for line in sys.stdin:
        job = json.loads(line)
        output = os.open(job.pop("output"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        error = os.open(job.pop("error"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            leave(lambda: run(**job), output, error)  # noqa: B023
        os.close(output)
        os.close(error)
        print(pid, flush=True)  # noqa: T201
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    torch.set_num_threads(1)
    warm_up()
    gc.freeze()  # processes look for garbage among what they make themselves
    cells.subprocess.Popen = Forked
    with_digest = load_catalogue() | {"digest": {"options": [], "hidden": [], "classes": []}}
    command.load_catalogue = lambda: with_digest
    sys.modules["recmtl.cli.digest"] = sys.modules[__name__]
    serve()
