"""Speed and memory from files to batches: python -m benchmarks.data FOLDER [--raw FOLDER] [--json FILE]

FOLDER holds generated rows, for instance the 12.1 million training rows, about 5.6 GB, of
`recmtl synth --rows 15_125_000 --vocabulary 1_000_000 --out FOLDER`; the folder of `--raw` the same in the raw layout
(`--layout raw`). Each line is a process of its own. `prepare` is measured on all training rows and the first million:
megabytes of text per second, and the most memory that the process held. Training (MMOE of the benchmarks, `--steps`
steps of an epoch) is measured with all rows in memory, in windows of an eighth and, where a memory cgroup can be made
(by root), in one that holds a quarter of the prepared rows; in `--turns` turns, of which the median counts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recmtl.recipe.environment import environment

MEGA = 1_000_000
PROCESS = 600 * MEGA  # what the process needs besides rows
Figures = Mapping[str, float]


def first_rows(source: Path, target: Path, rows: int) -> None:
    """Copy the header and so many rows."""
    with source.open("rb") as lines, target.open("wb") as out:
        out.writelines(itertools.islice(lines, rows + 1))


def prepare(csv: Path, out: Path) -> Figures:
    import recmtl

    start = time.perf_counter()
    recmtl.prepare(recmtl.card("aliexpress"), csv, out=out)
    seconds = time.perf_counter() - start
    return {"megabytes_per_second": csv.stat().st_size / MEGA / seconds, "seconds": seconds}


def prepare_raw(folder: Path, out: Path) -> Figures:
    import recmtl
    from recmtl.data.raw import open_raw

    size = sum(file.stat().st_size for file in folder.glob("*.csv"))
    start = time.perf_counter()
    with open_raw("aliexpress", folder, "NL") as sources:
        recmtl.prepare(recmtl.card("aliexpress"), sources["train"], test=sources["test"], out=out)
    seconds = time.perf_counter() - start
    return {"megabytes_per_second": size / MEGA / seconds, "seconds": seconds}


def train(prepared: Path, share: float, steps: int, cgroup: str = "") -> Figures:
    """Rows per second of an epoch that is cut off after so many steps; its first ten are not timed.

    Args:
        prepared: The dataset.
        share: Of the rows, in a window; 0 leaves it to the loader.
        steps: How many.
        cgroup: The folder of a memory cgroup to be in.
    """
    if cgroup:
        (Path(cgroup) / "cgroup.procs").write_text(str(os.getpid()))
    import recmtl
    from benchmarks.generated import BATCH
    from benchmarks.peers import trainer
    from recmtl.train import Step

    data = recmtl.PreparedData.open(prepared)
    made = trainer(data.schema, "none", "bf16")
    window = max(1, int(len(data.train) * share)) if share else None
    batches = recmtl.Loader(data.train, BATCH, seed=0, window=window).epoch()
    step = Step(made.model, made.balancer, made.setup.optimization, steps)
    for batch in itertools.islice(batches, 10):
        step(batch)
    start, waited = time.perf_counter(), 0.0
    for _ in range(steps):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        step(batch)
    seconds = time.perf_counter() - start
    return {"rows_per_second": BATCH * steps / seconds, "percent_of_the_time_waiting_for_rows": 100 * waited / seconds}


@contextmanager
def cgroup_of(size: int) -> Iterator[str]:
    """A memory cgroup of so many bytes, or nothing where none can be made."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    folder, limit = (old, "memory.limit_in_bytes") if old.is_dir() else (new, "memory.max")
    folder = folder / f"recmtl-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / limit).write_text(str(size))
    except OSError:
        yield ""
        return
    try:
        yield str(folder)
    finally:
        folder.rmdir()


def alone(*arguments: object) -> Figures:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data", ".", "--one", *map(str, arguments)]
    found: Figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return found


def trainings(prepared: Path, steps: int, turns: int) -> dict[str, Figures]:
    """The ways to hold the rows, in turns: of each the run with the median speed."""
    size = sum(shard.stat().st_size for shard in prepared.glob("train-*.arrow"))
    runs: dict[str, list[Figures]] = {}
    with cgroup_of(size // 4) as cgroup:
        ways = {"in memory": (1.0, ""), "in windows of an eighth": (1 / 8, "")}
        if cgroup and size // 4 > PROCESS:
            ways[f"in a cgroup of {size / 4 / MEGA:.0f} MB, a quarter of the rows"] = (0.0, cgroup)
        for _ in range(turns):
            for name, (share, limited) in ways.items():
                runs.setdefault(f"train, {name}", []).append(alone("train", prepared, share, steps, limited))
    return {name: sorted(found, key=lambda f: f["rows_per_second"])[turns // 2] for name, found in runs.items()}


def one(what: str, path: str, *rest: str) -> Figures:
    kinds: Mapping[str, Callable[[], Figures]] = {
        "prepare": lambda: prepare(Path(path), Path(rest[0])),
        "prepare_raw": lambda: prepare_raw(Path(path), Path(rest[0])),
        "train": lambda: train(Path(path), float(rest[0]), int(rest[1]), rest[2]),
    }
    figures = kinds[what]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGA
    return {**figures, "peak_megabytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--raw", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", nargs="+", help="measure one line in this process")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(*arguments.one)))
        return
    results: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as beside:
        few = Path(beside) / "few.csv"
        first_rows(arguments.folder / "train.csv", few, MEGA)
        results["prepare, a million rows"] = alone("prepare", few, Path(beside) / "few")
        results["prepare, all rows"] = alone("prepare", arguments.folder / "train.csv", Path(beside) / "all")
        results |= trainings(Path(beside) / "all", arguments.steps, arguments.turns)
        if arguments.raw:
            shutil.rmtree(Path(beside) / "all")
            results["prepare, the raw layout"] = alone("prepare_raw", arguments.raw, Path(beside) / "raw")
    table = Table("", "figures")
    for name, figures in results.items():
        table.add_row(name, ", ".join(f"{value:,.0f} {key.replace('_', ' ')}" for key, value in figures.items()))
    Console(width=120).print(table)
    if arguments.json:
        content = {"command": "python -m benchmarks.data FOLDER", "machine": environment(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
