"""What a GPU must show first, rehearsed on a CPU: the script, the checks, and the benchmark with its time limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import benchmarks.gpu.__main__ as command
import recmtl
from benchmarks.gpu import rehearsal, twins
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.form import FULL, REHEARSAL
from benchmarks.gpu.sections import SECTIONS, attempted
from benchmarks.gpu.trace import read_trace
from recmtl import Sum

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "first_gpu.sh"
CHECKS = ("machine", "widths", "rotations", "after-failures", "balancers", "other-steps", "forms", "five-steps")


def executable(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def wheel(folder: Path) -> None:
    """A wheel of one module."""
    folder.mkdir()
    with zipfile.ZipFile(folder / "planted-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("planted.py", "")
        archive.writestr("planted-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: planted\nVersion: 1.0\n")
        archive.writestr(
            "planted-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("planted-1.0.dist-info/RECORD", "")


def run_script(folder: Path, python: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script with stand-ins for the programs of a GPU's machine in `folder/bin`."""
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    given = {"OUT": str(folder / "out"), "DEVICE": "cpu", "PYTHON": str(python), "PATH": path, **variables}
    return subprocess.run([SCRIPT], env={**os.environ, **given}, capture_output=True, text=True, check=False)


def steps(folder: Path) -> dict[str, str]:
    """The exit status of each step."""
    lines = (folder / "out" / "steps.tsv").read_text().splitlines()[1:]
    return {line.split("\t")[0]: line.split("\t")[1] for line in lines}


@pytest.mark.slow
def test_every_line_of_the_script_runs_with_stand_ins(tmp_path: Path, warm_python: Path) -> None:
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin" / "nvidia-smi", "echo planted driver")
    executable(tmp_path / "bin" / "compute-sanitizer", 'shift 6\nexec "$@"')
    wheel(tmp_path / "wheels")
    done = run_script(tmp_path, warm_python, WHEELS=str(tmp_path / "wheels"), TOTAL="3000", SLACK="20")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert set(steps(tmp_path).values()) == {"0"}
    assert list(steps(tmp_path))[:2] == ["wheels", "nvidia-smi"]
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "planted driver" in log
    assert "=== 0 steps failed" in log

    rows = [json.loads(line) for line in (tmp_path / "out" / "checks.jsonl").read_text().splitlines()]
    assert tuple(dict.fromkeys(row["check"] for row in rows)) == CHECKS
    assert all(row["ok"] for row in rows)
    assert {row["row"] for row in rows if row["check"] == "balancers"} == {
        f"{name}, {mode}" for name in REHEARSAL.balancers for mode in ("dense", "rows")
    }
    results = json.loads((tmp_path / "out" / "gpu.json").read_text())["results"]
    assert set(results) == set(SECTIONS)
    assert {found["ended"] for found in results.values()} == {"done"}
    assert not any("error" in row for found in results.values() for row in found["rows"].values())
    small = results["steps-small"]["rows"]
    assert small["Sum, recorded"]["recorded"] == "yes"
    assert small["Sum, launched"]["recorded"] == "no: launched as asked"
    assert small["Sum, recorded"]["rows_per_second_pipelined"] > 0
    assert small["Sum, recorded"]["share_of_rate"] > 0
    assert len(results["profiles-small"]["rows"]["Sum"]["longest"]) == 10


def test_a_bad_step_stops_no_other_and_the_time_is_kept(tmp_path: Path) -> None:
    """A stand-in for Python hangs in one check and fails in another; the last steps find no time left."""
    (tmp_path / "bin").mkdir()
    executable(tmp_path / "bin" / "nvidia-smi", "exit 3")
    python = executable(
        tmp_path / "python", 'case "$*" in *" balancers "*) sleep 30;; *rotations*) echo planted fault; exit 7;; esac'
    )
    done = run_script(tmp_path, python, TOTAL="134")
    found = steps(tmp_path)
    assert done.returncode == 1
    assert (found["nvidia-smi"], found["machine"], found["rotations"], found["balancers"]) == ("3", "0", "7", "124")
    assert (found["other-steps"], found["memcheck"], found["benchmark"]) == ("skipped", "skipped", "0")
    assert "planted fault" in (tmp_path / "out" / "log.txt").read_text()
    assert "steps failed" in done.stdout


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, aliexpress: Any) -> Bench:
    """A rehearsal in this process, whose stand-ins go at the end of the test."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    rehearsal.stand_in(monkeypatch)
    return Bench("cpu", REHEARSAL, aliexpress)


class Counting(Sum):
    """A balancer that counts its steps in Python: what it does in a replay is that of the record."""

    count = 0

    def backward(self, losses: Any, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        scaled = {name: loss * (1 + self.count % 7) for name, loss in losses.items()}
        return super().backward(scaled, *arguments, **options)


class Looking(Sum):
    """A balancer that looks at a value."""

    def backward(self, losses: Any, *arguments: Any, **options: Any) -> Any:
        assert all(float(loss) > -1 for loss in losses.values())
        return super().backward(losses, *arguments, **options)


@pytest.mark.parametrize(("method", "told"), [(Counting, "recorded: yes"), (Looking, "no: operation not permitted")])
def test_the_checks_find_planted_faults(bench: Bench, method: type, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recmtl.PPCGrad", method, raising=False)
    batches = twins.whole_batches(bench) * 2
    for mode in twins.MODES:
        assert "failed" not in twins.held(bench, "Sum", mode, batches)
    assert told in twins.held(bench, "PPCGrad", "dense", batches)["failed"]


def test_a_contender_says_why_it_is_not_recorded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recmtl.PPCGrad", Looking, raising=False)
    assert bench.contender(32, "Sum").recorded == "yes"
    assert bench.contender(32, "Sum", record=False).recorded == "no: launched as asked"
    assert bench.contender(32, "PPCGrad").recorded.startswith("no: operation not permitted when")


def weights_of_layers(model: torch.nn.Module) -> int:
    """The elements of all matrices but those of embeddings."""
    return sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and not name.startswith("encoder."))


def test_the_products_of_a_step_are_counted(bench: Bench) -> None:
    """Each weight is multiplied and added for each row, forward and in both products of the backward pass."""
    contender = bench.contender(32, "Sum")
    assert contender.flop == pytest.approx(6 * 32 * weights_of_layers(contender.step._model), rel=0.03)


def test_the_expected_figures_are_those_of_the_measured_model(aliexpress: Any) -> None:
    text = (ROOT / "benchmarks" / "results" / "gpu_expected.md").read_text()
    trainer = Bench("cpu", FULL, aliexpress)._trainer(aliexpress.schema, recmtl.Optimization(), "Sum")
    parameters = sum(p.numel() for p in trainer.model.parameters())
    assert f"| **{weights_of_layers(trainer.model):,}** |" in text
    assert f"{parameters / 1e6:.1f}" == "10.1"
    for number in (FULL.small, FULL.large, FULL.rows, -(-FULL.rows // FULL.small), -(-FULL.rows // FULL.large)):
        assert f"{number:,}" in text


def test_a_section_that_hangs_keeps_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = 'while [ "$1" != --rows ]; do shift; done; echo \'["one", {"x": 1}]\' >"$2"; printf \'["two"\' >>"$2"'
    python = executable(tmp_path / "python", f"{script}\necho no end >&2\nexec sleep 30")
    monkeypatch.setattr(sys, "executable", str(python))
    found = command.section("rates", "cpu", tmp_path / "data", tmp_path / "gpu.json", 1.0)
    assert found["rows"] == {"one": {"x": 1}}
    assert found["ended"] == "after the limit of 1 s: no end"
    executable(python, "echo planted fault >&2\nexit 5")
    found = command.section("rates", "cpu", tmp_path / "data", tmp_path / "gpu.json", 20.0)
    assert (found["ended"], found["rows"]) == ("exit status 5: planted fault", {})


def test_a_limit_from_outside_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`timeout` ends the whole process group: the section, and then the command, once it has written the rows."""

    def section(*_: object) -> dict[str, Any]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {"ended": "exit status -15: ", "seconds": 1.0, "rows": {"one": {"x": 1}}}

    monkeypatch.setattr(command, "section", section)
    monkeypatch.setattr(command, "stand_in", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "planted")
    monkeypatch.setattr(command, "write_data", lambda *_: None)
    with pytest.raises(SystemExit, match="143"):
        command.run_all("cpu", [], tmp_path / "gpu.json", 1.0)
    results = json.loads((tmp_path / "gpu.json").read_text())["results"]
    assert {title: found["rows"] for title, found in results.items()} == {"rates": {"one": {"x": 1}}}


def test_a_run_adds_to_what_a_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run: list[str] = []

    def section(title: str, *_: object) -> dict[str, Any]:
        run.append(title)
        ended = "done" if title != "steps-small" or run.count(title) > 1 else "after the limit of 1 s"
        return {
            "ended": ended,
            "seconds": 1.0,
            "rows": {"row": {"step_ms": 1.5, "waits": ["in f"], "error": "planted"}},
        }

    monkeypatch.setattr(command, "section", section)
    monkeypatch.setattr(command, "stand_in", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "planted")
    monkeypatch.setattr(command, "write_data", lambda *_: None)
    path = tmp_path / "gpu.json"
    command.run_all("cpu", ["epochs"], path, 1.0)
    command.run_all("cpu", [], path, 1.0)
    assert sorted(run) == sorted(SECTIONS)
    command.run_all("cpu", [], path, 1.0)
    assert run[len(SECTIONS) :] == ["steps-small"]
    assert set(json.loads(path.read_text())["results"]) == set(SECTIONS)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "another")
    command.run_all("cpu", ["epochs"], path, 1.0)
    assert set(json.loads(path.read_text())["results"]) == {"epochs"}


def test_a_trace_of_a_replay_is_counted() -> None:
    """Three inputs copied and a graph launched, which runs two kernels and a fill; the losses are copied."""

    def event(category: str, name: str, duration: float) -> dict[str, Any]:
        return {"ph": "X", "cat": category, "name": name, "dur": duration}

    copies = [event("cuda_runtime", "cudaMemcpyAsync", 5.0)] * 3 + [event("gpu_memcpy", "Memcpy DtoD", 2.0)] * 3
    graph = [event("cuda_runtime", "cudaGraphLaunch", 9.0), event("kernel", "gemm", 500.0)]
    graph += [event("kernel", "gemm", 400.0), event("gpu_memset", "Memset", 1.0)]
    result = [event("cuda_runtime", "cudaLaunchKernel", 4.0), event("kernel", "copy", 3.0)]
    other = [event("cuda_runtime", "cudaDeviceSynchronize", 900.0), event("cpu_op", "aten::copy_", 7.0), {"ph": "M"}]
    trace = read_trace([*copies, *graph, *result, *other])
    assert (trace.launches, trace.nodes) == (5, 3)
    assert trace.device_ms == pytest.approx(0.91)
    assert trace.longest[:2] == [
        {"name": "gemm", "calls": 2, "microseconds": 900.0},
        {"name": "Memcpy DtoD", "calls": 3, "microseconds": 6.0},
    ]
    assert read_trace([*result, *other]).nodes == 0


def test_a_row_that_fails_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def failing() -> dict[str, Any]:
        raise MemoryError("planted")

    assert attempted("row", failing) == ("row", {"error": "MemoryError: planted"})
