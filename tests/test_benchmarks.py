"""What measures a GPU runs from end to end on a CPU, with small numbers."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu


def test_the_gpu_benchmark_runs_and_writes_every_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["--device", "cpu", "--rows", "300", "--batches", "32", "64", "--width", "2", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["gpu", *small, "--json", str(tmp_path / "gpu.json")])
    monkeypatch.setattr(gpu, "ALL_LARGE", gpu.SMALL)
    monkeypatch.setattr(gpu, "TWO_LARGE", gpu.SMALL)
    gpu.main()
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert len(results) == 8
    assert {"Sum, launched", "PCGrad, recorded"} < set(results["recorded, bf16, batch 32"])
    assert all(value > 0 for table in results.values() for row in table.values() for value in row.values())
