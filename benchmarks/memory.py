"""Memory beyond tables, their moments and the data: python -m benchmarks.memory [--json FILE]

Each line is a process of its own: MMOE of the benchmarks with so many rows in its tables takes 20 steps after 3 to warm
up. *Beyond* is the most that the process held in these 20, less what it held before the model was made and less three
numbers for each number in a table: the weight and Adam's two moments. It holds the layers, their gradients and moments,
and the working memory of a step.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recmtl.recipe.environment import environment

MEBI = 1 << 20
SIZES = {"200": 12, "1 M": 62_500, "4 M": 250_000, "16 M": 1_000_000}  # rows in all, and in each of 16 columns
METHODS = ("Sum", "PCGrad", "MetaBalance")


def held(what: str) -> int:
    """Bytes of memory: ``VmRSS`` now, ``VmHWM`` at most since the last `forget`."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) * 1024


def forget() -> None:
    """Let the most that was held begin anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def measure(rows: int, balancer: str) -> dict[str, float]:
    """Megabytes of the tables with their moments, and beyond."""
    from benchmarks.generated import COLUMNS, batches, generated, with_vocabularies
    from benchmarks.peers import steps

    data = generated(40_000)
    schema = with_vocabularies(data.schema, [rows] * COLUMNS)
    given = batches(data, schema, 20)
    before = held("VmRSS")
    step = steps(schema, given, balancer=balancer)
    for _ in range(3):
        step()
    forget()
    for _ in range(20):
        step()
    tables = 3 * sum(block.size for block in schema.id_blocks) * 16 * 4  # numbers of 4 bytes, 16 in a row
    return {"tables": tables / MEBI, "beyond": (held("VmHWM") - before - tables) / MEBI}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("ROWS", "BALANCER"), help="measure one line in this process")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.one:
        rows, balancer = arguments.one
        print(json.dumps(measure(int(rows), balancer)))
        return
    table = Table("rows in the tables", "balancer", "MiB: tables, moments", "beyond")
    results = {}
    for name, rows in SIZES.items():
        for balancer in METHODS:
            command = [sys.executable, "-m", "benchmarks.memory", "--one", str(rows), balancer]
            found = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
            results[f"{name} rows, {balancer}"] = found
            table.add_row(name, balancer, f"{found['tables']:,.0f}", f"{found['beyond']:,.0f}")
    Console(width=120).print(table)
    if arguments.json:
        content = {"command": "python -m benchmarks.memory", "machine": environment(), "results": results}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
