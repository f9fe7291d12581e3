"""The tables of served models, from the recorded results."""

import json
from pathlib import Path
from typing import Any

from docs.generators.markdown import machine, table

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def in_python() -> str:
    """Return the tables of `benchmarks.serving`: milliseconds of a request."""
    content: dict[str, Any] = json.loads((RESULTS / "serving.json").read_text())
    results, keys = content["results"], ("p50_ms", "p99_ms", "cpu_p50_ms", "cpu_p99_ms")
    rows = [
        (f"{int(candidates):,}", name, f"{row['requests']:,}", *(f"{row[key]:.2f}" for key in keys))
        for candidates, found in results["requests"].items()
        for name, row in found.items()
    ]
    headers = ["candidates", "", "requests", "p50 ms", "p99 ms", "CPU p50 ms", "CPU p99 ms"]
    strings = [
        (name, f"{row['cpu_p50_ms']:.2f}", f"{row['cpu_p99_ms']:.2f}")
        for name, row in results["look_ups_of_1000_strings"].items()
    ]
    vocabulary = results["vocabulary"]
    return f"""{machine(content)} · load {content["load"]:.1f}

{table(headers, rows, 2)}

1,000 strings to ids, in a vocabulary of 10,000:

{table(["by", "CPU p50 ms", "CPU p99 ms"], strings)}

A vocabulary of {vocabulary["categories"]:,} categories is loaded in {vocabulary["cpu_seconds"]:.2f} s and takes
{vocabulary["mebibytes"]:,.0f} MiB."""


def over_http() -> str:
    """Return the tables of `benchmarks.serving_http`: what HTTP adds, and what two workers sustain."""
    content: dict[str, Any] = json.loads((RESULTS / "serving_http.json").read_text())
    latency = [
        (f"{int(size):,}", *(f"{row[way][rank]:.2f}" for way in ("scorer", "http") for rank in ("p50", "p99")))
        for size, row in content["latency"].items()
    ]
    load = [(name, *load_cells(row)) for name, row in load_rows(content)]
    swap = content["swap"]
    return "\n\n".join(
        (
            machine(content),
            table(["candidates", "Scorer p50, ms", "p99", "over HTTP p50, ms", "p99"], latency),
            table(["clients, 50 candidates", "sent", "lost", "requests/s", "p50, ms", "p99, ms"], load),
            f"In the last line the model was changed {swap['swaps']} times, each time in two workers, which took "
            f"{swap['longest_load_s']:.2f} seconds at most.",
        )
    )


def load_rows(content: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the lines on load, with their names."""
    plain = [(str(row["clients"]), row) for row in content["load"]]
    return [*plain, (f"{content['swap']['clients']}, models change", content["swap"])]


def load_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of a line on load."""
    times = row["milliseconds"]
    return (
        f"{row['sent']:,}",
        f"{row['lost']:,}",
        f"{row['per_second']:,}",
        f"{times['p50']:.1f}",
        f"{times['p99']:.1f}",
    )
