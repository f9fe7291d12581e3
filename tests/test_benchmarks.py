"""Benchmarks run from end to end with small numbers; that of a GPU on a CPU."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import data, gpu
from recmtl.data.synth import synthesize

ROOT = Path(__file__).parents[1]


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


def test_the_data_benchmark_runs_and_writes_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesize(tmp_path / "csv", 40_000)
    synthesize(tmp_path / "raw", 12_000, layout="raw")
    given = [str(tmp_path / "csv"), "--raw", str(tmp_path / "raw"), "--steps", "3", "--turns", "1"]
    monkeypatch.setattr(sys, "argv", ["data", *given, "--json", str(tmp_path / "data.json")])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    data.main()
    results = json.loads((tmp_path / "data.json").read_text())["results"]
    lines = {"prepare, a million rows", "prepare, all rows", "prepare, the raw layout", "train, in memory"}
    assert set(results) == lines | {"train, in windows of an eighth"}
    assert all(value >= 0 for figures in results.values() for value in figures.values())
