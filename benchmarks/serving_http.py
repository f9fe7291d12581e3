"""An exported model over HTTP on this machine: python -m benchmarks.serving_http MODEL [--other MODEL] [--json FILE]

*latency*: one request after the other, each scored by `recmtl.Scorer` in this process, from objects that were just
parsed, and over HTTP by one worker, in turns; what HTTP adds, with parsing, is the difference of the medians. *load*:
two workers, and clients that send one request of 50 candidates after the other from a process of their own, on the same
cores as the workers; requests per second, and milliseconds. *swap*: the same while the served link is moved between two
exports; every request that was sent must be answered. Candidates share the first half of the fields; their values are
those of the export's probe.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import orjson

import recmtl
from benchmarks.http_load import Connection, milliseconds, post
from recmtl.recipe.environment import environment
from recmtl.serving.server.supervisor import Server
from recmtl.serving.server.worker import Settings

SIZES = (1, 50, 1000)
CLIENTS = (1, 2, 4, 8)
WARM = 20  # requests that are not counted
Numbers = Mapping[str, Any]


def request_of(model: Path, candidates: int) -> dict[str, Any]:
    """Return a user and candidates, from the probe of an export."""
    rows = json.loads((model / "probe.json").read_text())["rows"]
    names = [field["name"] for field in json.loads((model / "manifest.json").read_text())["request"]]
    shared, own = names[: len(names) // 2], names[len(names) // 2 :]
    items = [{name: row[name] for name in own} for row in islice(cycle(rows), candidates)]
    return {"user": {name: rows[0][name] for name in shared}, "items": items}


@contextmanager
def served(model: Path, workers: int) -> Iterator[tuple[int, Path]]:
    """Serve a model within a block; yields the port and the log."""
    variables = os.environ | {"OMP_NUM_THREADS": "1"}
    command = Server(Settings(str(model), 0, 0, watch=0.1), "127.0.0.1", 0, workers).to_arguments()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("w") as file:
            process = subprocess.Popen(command, stderr=file, env=variables)
        try:
            while len(events(log, "worker ready")) < workers:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield events(log, "listening")[0]["port"], log
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()


def events(log: Path, name: str) -> list[dict[str, Any]]:
    """Return the events of a name in a log."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    return [line for line in lines if line["event"] == name]


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process took so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def latency(model: Path, requests: int) -> dict[str, Numbers]:
    """Time requests of each size, alone and over HTTP, in turns."""
    scorer = recmtl.Scorer(model)
    with served(model, workers=1) as (port, log):
        worker = events(log, "worker ready")[0]["pid"]
        return {str(size): compare(scorer, model, port, worker, size, requests) for size in SIZES}


def compare(scorer: recmtl.Scorer, model: Path, port: int, worker: int, size: int, requests: int) -> Numbers:
    """Time requests of one size."""
    body, connection = request_of(model, size), Connection(port)
    text, sent = orjson.dumps(body), post(body)
    alone, http, processor = [], [], 0.0
    for _ in range(WARM):
        connection.ask(sent)
    before = processor_seconds(worker)
    for _ in range(requests if size < 1000 else requests // 5):
        fresh = orjson.loads(text)  # as a server has it: no value was looked at before
        began, started = time.thread_time(), time.perf_counter()
        scorer.score(**fresh)
        between = time.perf_counter()
        processor += time.thread_time() - began
        status, _, _ = connection.ask(sent)
        http.append(time.perf_counter() - between)
        alone.append(between - started)
        assert status == 200
    connection.close()
    count = len(http)
    return {
        "requests": count,
        "bytes": len(sent),
        "scorer": milliseconds(alone),
        "http": milliseconds(http),
        "added_p50": round(milliseconds(http)["p50"] - milliseconds(alone)["p50"], 3),
        "processor_ms": {
            "scorer": round(1000 * processor / count, 3),
            "worker": round(1000 * (processor_seconds(worker) - before) / count, 3),
        },
    }


@contextmanager
def clients(port: int, model: Path, count: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Run clients that send 50 candidates each in a process of their own."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(post(request_of(model, 50)))
        file.flush()
        command = [sys.executable, "-m", "benchmarks.http_load", str(port), file.name, str(count), str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            yield process


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for clients and return what they counted."""
    found: dict[str, Any] = json.loads(process.communicate()[0])
    return found


def sustained(model: Path, seconds: float) -> list[Numbers]:
    """Return the rate and latency of two workers for more and more clients."""
    with served(model, workers=2) as (port, _):
        found: list[Numbers] = []
        for count in CLIENTS:
            with clients(port, model, count, seconds) as process:
                found.append(result_of(process))
        return found


def swapped(model: Path, other: Path, seconds: float, swaps: int) -> dict[str, Any]:
    """Move the served link between two exports, while clients send; the stop at the end is under load, too."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "current"
        link.symlink_to(model.resolve())
        with served(link, workers=2) as (port, log):
            with clients(port, model, 4, seconds) as process:
                for number in range(swaps):
                    time.sleep(seconds / (swaps + 1))
                    new = Path(folder) / "next"
                    new.symlink_to((other, model)[number % 2].resolve())
                    new.replace(link)
                found = result_of(process)
            taken, refused = events(log, "model taken"), events(log, "model refused")
    longest = max((event["seconds"] for event in taken), default=0.0)
    return {**found, "swaps": swaps, "taken": len(taken), "refused": len(refused), "longest_load_s": longest}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--other", type=Path, help="a second export, to change to and fro")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--swaps", type=int, default=4)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {"command": "python -m benchmarks.serving_http MODEL --other MODEL"}
    found |= {"machine": environment(1), "load_average": os.getloadavg()[0]}
    found["latency"] = latency(given.model, given.requests)
    found["load"] = sustained(given.model, given.seconds)
    if given.other:
        found["swap"] = swapped(given.model, given.other, 2 * given.seconds, given.swaps)
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
