"""Commands in processes forked from one that has already imported everything."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import recmtl

LIMIT = 60.0  # seconds per command
FORKING = Path(__file__).with_name("forking.py")


class Job:
    """A command in a process of its own.

    Args:
        server: The server that forked it.
        folder: The folder of its output.
    """

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self._server, self._folder = server, folder
        self.pid = int(server.stdout.readline())
        self.started = time.monotonic()

    def kill(self, seconds: float, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process and its children after the command has run for so many seconds."""
        time.sleep(max(0.0, seconds - (time.monotonic() - self.started)))
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:  # it has ended, or leads no group yet
            os.kill(self.pid, number) if Path(f"/proc/{self.pid}").exists() else None

    def wait(self) -> int:
        """Return the exit status; kill a command that takes too long."""
        killer = threading.Timer(LIMIT, os.killpg, (self.pid, signal.SIGKILL))
        killer.start()
        status = int(self._server.stdout.readline())
        killer.cancel()
        self.seconds = time.monotonic() - self.started
        return status

    @property
    def printed(self) -> str:
        """The standard output."""
        return (self._folder / "output.txt").read_text()

    @property
    def said(self) -> str:
        """The standard error."""
        return (self._folder / "error.txt").read_text(errors="replace")


class Forker:
    """Starts commands, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        package = str(Path(recmtl.__file__).parents[1])
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": package}
        self._server = subprocess.Popen(
            [sys.executable, str(FORKING)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def start(self, *arguments: object, **faults: object) -> Job:
        """Start a command with the faults that `forking.run` takes."""
        cache = faults.pop("cache", self._folder / "cache")
        files = {"output": str(self._folder / "output.txt"), "error": str(self._folder / "error.txt")}
        job = {"arguments": [str(a) for a in arguments], "environment": {"RECMTL_CACHE": str(cache)}} | files | faults
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return Job(self._server, self._folder)

    def run(self, *arguments: object, **faults: object) -> Job:
        """Run a command and wait for it."""
        job = self.start(*arguments, **faults)
        job.status = job.wait()
        return job

    def close(self) -> None:
        """End the server."""
        self._server.communicate()


def is_line(said: str) -> bool:
    """Return whether standard error is one line of `recmtl`, apart from notes."""
    lines = [line for line in said.splitlines() if not line.startswith("note: ")]
    return len(lines) == 1 and lines[0].startswith("recmtl: ")
