"""What a step does on the device, by torch's profiler: launches, nodes of the graph, and the longest kernels."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")  # categories of a trace
CALLS = ("cuda_runtime", "cuda_driver")
LAUNCHES = ("LaunchKernel", "MemcpyAsync", "MemsetAsync", "GraphLaunch", "LaunchCooperativeKernel")
LONGEST, NAME_LETTERS = 10, 120


@dataclass(frozen=True)
class Trace:
    """Operations of a step on the device.

    Args:
        launches: Calls of the host that give the device work; the launch of a graph is one.
        nodes: Operations that ran in graphs, which no call of the host launched one by one; 0 without a graph.
        device_ms: Milliseconds in which the device worked.
        longest: The ten that took longest: name, number of calls, microseconds in all.
    """

    launches: int
    nodes: int
    device_ms: float
    longest: list[dict[str, Any]]


def trace_of(work: Callable[[], object], on_gpu: bool) -> Trace:
    """Return what a work does on the device; on a CPU its operations are taken for kernels, without launches."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    work()
    torch.cuda.synchronize()
    with profile(activities=activities) as profiler:
        work()
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return read_trace(events, ON_DEVICE if on_gpu else ("cpu_op",))


def read_trace(events: Iterable[Mapping[str, Any]], on_device: tuple[str, ...] = ON_DEVICE) -> Trace:
    """Count the events of a trace in Chrome's format."""
    taken: dict[str, list[float]] = defaultdict(list)
    calls = []
    for event in events:
        if event.get("cat") in on_device:
            taken[event["name"][:NAME_LETTERS]].append(event["dur"])
        elif event.get("cat") in CALLS and any(part in event["name"] for part in LAUNCHES):
            calls.append(event["name"])
    graphs = sum("GraphLaunch" in name for name in calls)
    operations = sum(len(each) for each in taken.values())
    longest = sorted(taken, key=lambda name: -sum(taken[name]))[:LONGEST]
    return Trace(
        launches=len(calls),
        nodes=operations - (len(calls) - graphs) if graphs else 0,
        device_ms=sum(map(sum, taken.values())) / 1000,
        longest=[{"name": n, "calls": len(taken[n]), "microseconds": round(sum(taken[n]), 1)} for n in longest],
    )
