"""Speed and memory from files to batches: python -m benchmarks.data FOLDER [--json FILE]

FOLDER holds generated rows, for instance the 12.1 million training rows, about 5.8 GB, of
`recmtl synth --rows 15_125_000 --vocabulary 1_000_000 --out FOLDER`. Each line is a process of its own. `prepare` is
measured on all training rows and on the first million: megabytes of CSV per second, and the most memory that the
process held. Training (MMOE of the benchmarks, `--steps` steps of an epoch) is measured with all rows in memory and in
windows of an eighth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recmtl.recipe import environment

MEGA = 1_000_000
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


def train(prepared: Path, share: float, steps: int) -> Figures:
    """Rows per second of an epoch that is cut off after so many steps; its first ten are not timed."""
    import recmtl
    from benchmarks.generated import BATCH
    from benchmarks.peers import trainer
    from recmtl.train import Step

    data = recmtl.PreparedData.open(prepared)
    made = trainer(data.schema, "none", "bf16")
    loader = recmtl.Loader(data.train, BATCH, seed=0, window=max(1, int(len(data.train) * share)))
    step = Step(made.model, made.balancer, made.optimization, steps)
    start = 0.0
    for number, batch in enumerate(itertools.islice(loader.epoch(), steps + 10)):
        if number == 10:
            start = time.perf_counter()
        step(batch)
    return {"rows_per_second": BATCH * steps / (time.perf_counter() - start)}


def alone(*arguments: object) -> Figures:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data", ".", "--one", *map(str, arguments)]
    found: Figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    return found


def one(what: str, path: str, *rest: str) -> Figures:
    kinds: Mapping[str, Callable[[], Figures]] = {
        "prepare": lambda: prepare(Path(path), Path(rest[0])),
        "train": lambda: train(Path(path), float(rest[0]), int(rest[1])),
    }
    figures = kinds[what]()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGA
    return {**figures, "peak_megabytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=400)
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
        for name, share in (("in memory", 1.0), ("in windows of an eighth", 1 / 8)):
            results[f"train, {name}"] = alone("train", Path(beside) / "all", share, arguments.steps)
    table = Table("", "figures")
    for name, figures in results.items():
        table.add_row(name, ", ".join(f"{value:,.0f} {key.replace('_', ' ')}" for key, value in figures.items()))
    Console(width=120).print(table)
    if arguments.json:
        content = {"command": "python -m benchmarks.data FOLDER", "machine": environment(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
