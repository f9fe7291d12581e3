"""An exported model over HTTP on this machine: python -m benchmarks.serving_http [--json FILE]

The model and its requests are those of `benchmarks.serving`: an MMOE of width 16 with the weights of its start, and one
user with 1, 50 or 1,000 candidates in the layout of AliExpress, of whose fields half belong to the user.

*latency*: one request after the other, each scored by `recmtl.Scorer` in this process, from objects that were just
parsed, and over HTTP by one worker, in turns; what HTTP adds, with parsing, is the difference of the medians. *load*:
two workers, and clients that send one request of 50 candidates after the other from a process of their own, on the same
cores as the workers; requests per second, and milliseconds. *swap*: the same while the served link is moved between two
exports, of which one has a file more; every request that was sent must be answered.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import torch

import recmtl
from benchmarks.http_load import Connection, milliseconds, post
from recmtl.data.synthetic.generate import synthesize
from recmtl.features import FeatureEncoder
from recmtl.recipe.environment import environment
from recmtl.serving.manifest import read_manifest, write_manifest
from recmtl.serving.server.supervisor import Server
from recmtl.serving.server.worker import Settings

WIDTH = 16
SIZES = (1, 50, 1000)
CLIENTS = (1, 2, 4, 8)
WARM = 20  # requests that are not counted
Numbers = Mapping[str, Any]


@dataclass(frozen=True)
class Exports:
    """Two exports of one kind, and rows for requests."""

    model: Path
    other: Path
    rows: list[dict[str, Any]]
    shared: frozenset[str]

    def request(self, candidates: int) -> dict[str, Any]:
        """Return a user and candidates."""
        chosen = islice(cycle(self.rows), candidates)
        user = {name: self.rows[0][name] for name in self.shared}
        return {"user": user, "items": [{n: v for n, v in row.items() if n not in self.shared} for row in chosen]}


def export(folder: Path, rows: int, layers: Sequence[int]) -> Exports:
    """Export a model in the layout of AliExpress, and copy it with a file more."""
    synthesize(folder / "rows", rows)
    data = recmtl.prepare(recmtl.card("aliexpress"), folder / "rows" / "train.csv", holdout=0.0)
    torch.manual_seed(0)
    encoder = partial(FeatureEncoder, width=WIDTH)
    model = recmtl.MMOE(data.schema, encoder=encoder, experts=4, layers=layers, tower_layers=layers[1:])
    trainer = recmtl.Trainer(model, run=recmtl.RunConfig(device="cpu", progress=False, threads=1))
    recmtl.export_model(trainer, folder / "model")
    other = shutil.copytree(folder / "model", folder / "other")
    (other / "note").write_text("of another day")
    write_manifest(other, content_of(other))
    fields = recmtl.Scorer(folder / "model").fields
    frame = pd.read_csv(folder / "rows" / "test.csv")[list(fields)]
    kinds = [[name for name in fields if name.startswith(kind)] for kind in ("categorical", "numerical")]
    shared = frozenset(name for names in kinds for name in names[: len(names) // 2])
    records: list[dict[str, Any]] = json.loads(frame.head(1000).to_json(orient="records"))
    return Exports(folder / "model", folder / "other", records, shared)


def content_of(folder: Path) -> dict[str, Any]:
    """Return what a manifest says beside what is worked out from the files."""
    derived = ("layout", "fingerprint", "files", "checksum")
    return {name: value for name, value in read_manifest(folder, check=False).items() if name not in derived}


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


def latency(exports: Exports, requests: int) -> dict[str, Numbers]:
    """Time requests of each size, alone and over HTTP, in turns."""
    scorer = recmtl.Scorer(exports.model)
    with served(exports.model, workers=1) as (port, log):
        worker = events(log, "worker ready")[0]["pid"]
        return {str(size): compare(scorer, exports.request(size), port, worker, requests) for size in SIZES}


def compare(scorer: recmtl.Scorer, body: dict[str, Any], port: int, worker: int, requests: int) -> Numbers:
    """Time requests of one size."""
    connection = Connection(port)
    text, sent = orjson.dumps(body), post(body)
    alone, http, processor = [], [], 0.0
    for _ in range(WARM):
        connection.ask(sent)
    before = processor_seconds(worker)
    for _ in range(requests if len(body["items"]) < 1000 else max(1, requests // 5)):
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
def clients(port: int, sent: bytes, count: int, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Run clients in a process of their own."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(sent)
        file.flush()
        command = [sys.executable, "-m", "benchmarks.http_load", str(port), file.name, str(count), str(seconds)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            yield process


def result_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for clients and return what they counted."""
    found: dict[str, Any] = json.loads(process.communicate()[0])
    return found


def sustained(exports: Exports, seconds: float) -> list[Numbers]:
    """Return the rate and latency of two workers for more and more clients."""
    sent = post(exports.request(50))
    found: list[Numbers] = []
    with served(exports.model, workers=2) as (port, _):
        for count in CLIENTS:
            with clients(port, sent, count, seconds) as process:
                found.append(result_of(process))
    return found


def swapped(exports: Exports, seconds: float, swaps: int) -> dict[str, Any]:
    """Move the served link between two exports, while clients send."""
    with tempfile.TemporaryDirectory() as folder:
        link, new = Path(folder) / "current", Path(folder) / "next"
        link.symlink_to(exports.model)
        with served(link, workers=2) as (port, log):
            with clients(port, post(exports.request(50)), 4, seconds) as process:
                for number in range(swaps):
                    time.sleep(seconds / (swaps + 1))
                    new.symlink_to((exports.other, exports.model)[number % 2])
                    new.replace(link)
                found = result_of(process)
            taken, refused = events(log, "model taken"), events(log, "model refused")
    longest = max((event["seconds"] for event in taken), default=0.0)
    return {**found, "swaps": swaps, "taken": len(taken), "refused": len(refused), "longest_load_s": longest}


def measure(exports: Exports, requests: int, seconds: float, swaps: int) -> dict[str, Any]:
    """Measure latency, load, and load while models change."""
    load_average = round(os.getloadavg()[0], 1)
    return {
        "load_average": load_average,
        "latency": latency(exports, requests),
        "load": sustained(exports, seconds),
        "swap": swapped(exports, 2 * seconds, swaps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--swaps", type=int, default=4)
    parser.add_argument("--rows", type=int, default=30_000, help="of the generated data")
    parser.add_argument("--layers", type=int, nargs="+", default=[64, 32])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {"command": "python -m benchmarks.serving_http", "machine": environment()}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on rows that are generated
        exports = export(Path(folder), given.rows, given.layers)
        found |= measure(exports, given.requests, given.seconds, given.swaps)
    print(json.dumps(found, indent=1))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
