"""Workers as processes: a new model under load, a worker that is killed, and a stop that loses nothing."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.http_load import Load, ask_once, post
from recmtl.errors import UsageError
from recmtl.serving.server import supervisor
from recmtl.serving.server.supervisor import listen
from recmtl.serving.server.worker import Settings
from tests.serving.fake import write_model

ROOT = Path(__file__).parents[2]
ROW = {"user": "u", "time": 31, "item": "a", "price": 2.5}


class Server:
    """A server of the stand-in model with two workers, and its log."""

    def __init__(self, folder: Path) -> None:
        self.model = write_model(folder / "model")
        self.log = folder / "log"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        settings = Settings(str(self.model), 0, 0, watch=0.05, scorer="tests.serving.fake:FakeScorer")
        command = supervisor.Server(settings, "127.0.0.1", 0, workers=2).to_arguments()
        with self.log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=file)

    def events(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until an event is in the log so often, and return all of them."""
        for _ in range(600):
            lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]
            found = [line for line in lines if line["event"] == name]
            if len(found) >= count:
                return found
            assert self.process.poll() is None or count == 0, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"no {name!r} in {self.log.read_text()}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    yield found
    found.process.kill()
    found.process.wait()


@pytest.mark.slow
def test_no_request_is_lost_when_the_model_changes_and_when_the_server_stops(server: Server) -> None:
    workers = {event["pid"] for event in server.events("worker ready", 2)}
    port = server.events("listening")[0]["port"]
    load = Load(port, post({"rows": [ROW]}), clients=4)
    for factor in (2.0, 3.0):
        write_model(server.model, factor)
        taken = server.events("model taken", 2 * int(factor - 1))
    (server.model / "manifest.json").write_text("{")
    server.events("model refused", 2)
    assert {event["worker"] for event in taken} == workers
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(20) == 0
    load.stop()
    assert load.lost == 0
    assert set(load.statuses) == {200}
    assert len(load.models) == 3
    assert sum(load.statuses.values()) > 50
    assert server.log.read_text().splitlines()[-1].endswith('"event": "stopped"}')


@pytest.mark.slow
def test_a_worker_that_dies_is_started_again_and_workers_end_with_their_supervisor(server: Server) -> None:
    port = server.events("listening")[0]["port"]
    first, second = (event["pid"] for event in server.events("worker ready", 2))
    assert ask_once(port, post({"rows": [ROW]}))[0] == 200
    os.kill(first, signal.SIGKILL)
    assert server.events("worker ended")[0]["status"] == -signal.SIGKILL
    third = server.events("worker ready", 3)[-1]["pid"]
    metrics = ask_once(port, b"GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n")[1].decode()
    version = server.events("worker ready")[0]["model"]
    assert f'recmtl_workers{{model="{version}"}} 2.0' in metrics  # without the dead one
    assert 'recmtl_requests_total{status="200"} 1.0' in metrics  # of whichever worker
    server.process.kill()
    for _ in range(200):
        if not any(map(runs, (second, third))):
            return
        time.sleep(0.05)
    raise AssertionError("workers outlive their supervisor")


def runs(pid: int) -> bool:
    """Return whether a process is there and has not ended."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return False


def test_an_address_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port} cannot be listened on: Address already in use"):
            listen("127.0.0.1", port)
