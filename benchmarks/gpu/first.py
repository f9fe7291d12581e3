"""What a GPU must show first: python -m benchmarks.gpu.first CHECK [--json FILE]

Each check prints its rows, appends them to a file of JSON lines, and fails if one of them did. It needs no figures of
another machine: recorded steps are held to launched ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from benchmarks.generated import generated
from benchmarks.gpu import layers, recording, twins
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.form import form_for
from benchmarks.gpu.rehearsal import stand_in
from benchmarks.gpu.sections import Row
from recmtl.recipe.environment import environment

GENERATED = 1000  # rows: the models of the checks are small


def machine(bench: Bench) -> Iterator[Row]:
    """Versions and the device."""
    properties = torch.cuda.get_device_properties(0)
    yield "software", {"environment": environment(), "python": sys.version.split()[0], "cuda": torch.version.cuda}
    yield "device", {"name": torch.cuda.get_device_name(), "properties": str(properties)}


CHECKS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "machine": machine,
    "widths": recording.widths,
    "rotations": recording.rotations,
    "after-failures": recording.after_failures,
    "forms": layers.forms,
    "balancers": twins.balancers,
    "other-steps": twins.other_steps,
    "five-steps": twins.five_steps,
}


def text_of(value: object) -> str:
    """Return a value in a few letters."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run a check; the exit status is 1 if a row failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses with small sizes")
    parser.add_argument("--json", type=Path, help="the file that gets a line for each row")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        stand_in()
    bench = Bench(arguments.device, form_for(arguments.device), generated(GENERATED))
    failures = 0
    for name, values in CHECKS[arguments.check](bench):
        failed = bool({"failed", "error"} & values.keys())
        failures += failed
        shown = ", ".join(f"{key} {text_of(value)}" for key, value in values.items())
        print(f"{'FAILED' if failed else 'ok'}  {arguments.check}: {name}: {shown}", flush=True)
        if arguments.json:
            with arguments.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"check": arguments.check, "row": name, "ok": not failed, **values}) + "\n")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
