"""The command: runs each section in a process of its own, and writes what it yields."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import benchmarks.gpu as package
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.form import form_for, read_data, write_data
from benchmarks.gpu.rehearsal import stand_in
from benchmarks.gpu.sections import RATES, SECTIONS
from recmtl.recipe.environment import environment

ROOT = Path(__file__).parents[2]
SHOWN = 3  # of the longest kernels; the file has more
HIDDEN = ("longest", "error")  # values that make no column of a table


def run_section(title: str, device: str, data: Path, rows: Path, results: Path) -> None:
    """Append the rows of a section to a file, in this process."""
    if device == "cpu":
        stand_in()
    known = json.loads(results.read_text(encoding="utf-8"))["results"].get(RATES, {}).get("rows", {})
    rates = {name.removeprefix("products, "): v["tflop_per_second"] for name, v in known.items() if "products" in name}
    bench = Bench(device, form_for(device), read_data(data))
    with rows.open("a", encoding="utf-8") as file:
        for name, values in SECTIONS[title].rows(bench, rates):
            file.write(json.dumps([name, values]) + "\n")
            file.flush()


def section(title: str, device: str, data: Path, results: Path, limit: float) -> dict[str, Any]:
    """Run a section in a process of its own; return its rows so far, and how it ended."""
    rows, errors = data.parent / "rows", data.parent / "errors"
    rows.unlink(missing_ok=True)
    words = ["--section", title, "--device", device, "--data", str(data), "--rows", str(rows), "--json", str(results)]
    start = time.perf_counter()
    with errors.open("wb") as file:
        try:
            command = [sys.executable, "-m", "benchmarks.gpu", *words]
            code = subprocess.run(command, cwd=ROOT, stderr=file, timeout=limit, check=False).returncode
            ended = "done" if code == 0 else f"exit status {code}: {last_line(errors)}"
        except subprocess.TimeoutExpired:
            ended = f"after the limit of {limit:.0f} s: {last_line(errors)}"
    lines = rows.read_text(encoding="utf-8").splitlines(keepends=True) if rows.exists() else []
    found = dict(json.loads(line) for line in lines if line.endswith("\n"))
    return {"ended": ended, "seconds": round(time.perf_counter() - start, 1), "rows": found}


def last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no message"


def show(title: str, found: Mapping[str, Any]) -> None:
    rows = found["rows"]
    columns = list(dict.fromkeys(name for values in rows.values() for name in values if name not in HIDDEN))
    table = Table(f"{title} ({found['seconds']} s, {found['ended']})", *columns)
    for name, values in rows.items():
        shown = [cell(values.get(column, "")) for column in columns]
        table.add_row(name, *(shown if "error" not in values else [values["error"]]))
    Console(width=200).print(table)
    for name, values in rows.items():
        for kernel in values.get("longest", ())[:SHOWN]:
            print(f"{name}: {kernel['microseconds']:>10,.1f} µs in {kernel['calls']:>4} {kernel['name']}")


def cell(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} {value[0]}" if value else "0"
    return f"{value:,.3f}" if isinstance(value, float) else str(value)


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file as a whole, so that a run that is killed leaves the one before."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    new.replace(path)


@contextmanager
def noted_ends() -> Iterator[list[int]]:
    """Note a limit from outside, which ends the process of the section too, so that its rows are written first."""
    ends: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: ends.append(number))
    try:
        yield ends
    finally:
        signal.signal(signal.SIGTERM, before)


def run_all(device: str, only: Sequence[str], results: Path, limit: float) -> None:
    """Run sections and show what they yield; keep those of the same machine and sizes that a file holds already."""
    form = form_for(device)
    if device == "cpu":
        stand_in()
    content: dict[str, Any] = {
        "command": "python -m benchmarks.gpu",
        "machine": [*environment(), f"CUDA {torch.version.cuda}", torch.cuda.get_device_name()],
        "form": json.loads(json.dumps({**asdict(form), "vocabularies": list(form.vocabularies)})),
        "results": {},
    }
    if results.exists():
        before = json.loads(results.read_text(encoding="utf-8"))
        if all(before[name] == content[name] for name in ("machine", "form")):
            content = before
    found = content["results"]
    titles = only or [title for title in SECTIONS if found.get(title, {}).get("ended") != "done"]
    with tempfile.TemporaryDirectory() as folder, noted_ends() as ends:
        data = Path(folder, "data")
        write_data(form, data)
        write(results, content)
        for title in titles:
            found[title] = section(title, device, data, results, SECTIONS[title].seconds * limit)
            write(results, content)
            show(title, found[title])
            if ends:
                sys.exit(128 + ends[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(package.__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses with small sizes")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="the file of results, which a run adds to")
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=[], metavar="SECTION", help="default: all that the file lacks"
    )
    parser.add_argument("--limit", type=float, default=1.0, help="multiplies the time limits of the sections")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.section:
        run_section(arguments.section, arguments.device, arguments.data, arguments.rows, arguments.json.absolute())
    else:
        run_all(arguments.device, arguments.only, arguments.json.absolute(), arguments.limit)


if __name__ == "__main__":
    main()
