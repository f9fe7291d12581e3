"""Threads, precision and library at the start of a training; a precision slower than fp32 is refused or left."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import recmtl
from recmtl.balance import ProcessGroup
from recmtl.train import device as module
from recmtl.train.describe import describe_setup
from recmtl.train.options import Optimization

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    cached = module.times_fp32  # a test may replace it
    cached.cache_clear()
    yield
    cached.cache_clear()


@pytest.fixture
def slow_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 that takes 20 times as long as fp32."""
    monkeypatch.setattr(
        module, "linear_seconds", lambda device, options: 20e-3 if options.precision == "bf16" else 1e-3
    )


def trainer(data: recmtl.PreparedData, precision: str = "fp32", **run: object) -> recmtl.Trainer:
    torch.manual_seed(0)
    model = recmtl.SharedBottom(data.schema, layers=[16, 8])
    options = Optimization(batch_size=256, precision=precision)
    run = {"device": "cpu", "progress": False} | run
    return recmtl.Trainer(model, epochs=1, optimization=options, run=recmtl.RunConfig(**run))


def test_a_slow_precision_is_refused_by_name_before_anything_is_written(
    aliexpress: recmtl.PreparedData, slow_bf16: None, tmp_path: Path
) -> None:
    message = r"`precision` 'bf16' takes 20\.0 times as long as 'fp32' on this CPU: take 'fp32'"
    with pytest.raises(ValueError, match=message):
        trainer(aliexpress, "bf16", folder=tmp_path / "run").fit(aliexpress.train)
    assert [path.name for path in tmp_path.glob("run/*") if path.suffix != ".lock"] == []
    trainer(aliexpress, "fp32").fit(aliexpress.train)


def test_a_precision_that_is_slow_in_one_process_is_refused_in_all(slow_bf16: None) -> None:
    class Two(ProcessGroup):
        def all_gather_object(self, value: float) -> list[float]:
            return [value, 3.0]

    with pytest.raises(ValueError, match=r"takes 3\.0 times as long"):
        module.check_precision(CPU, "fp32", Two())


def test_predictions_leave_a_slow_precision(aliexpress: recmtl.PreparedData, slow_bf16: None) -> None:
    expected = trainer(aliexpress, "fp32").predictor.outputs(aliexpress.valid)
    with pytest.warns(
        UserWarning, match=r"'bf16' takes 20\.0 times as long as 'fp32' on this CPU: predictions are comp"
    ):
        found = trainer(aliexpress, "bf16").predictor.outputs(aliexpress.valid)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.5e-3, 3), (1.1e-3, 9), (4e-3, 3)])
def test_the_fastest_of_some_measurements_counts(seconds: float, rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements go on while the precision seems a little slower; the first, which loads kernels, does not count."""
    asked: list[str] = []

    def measured(device: torch.device, options: Optimization) -> float:
        asked.append(options.precision)
        if len(asked) < 3:
            return 1e-9
        return seconds if options.precision == "bf16" else 1e-3

    monkeypatch.setattr(module, "linear_seconds", measured)
    assert module.times_fp32(CPU, "bf16") == pytest.approx(seconds / 1e-3)
    assert asked == ["fp32", "bf16"] * rounds
    assert module.times_fp32(CPU, "fp32") == 1.0
    assert module.times_fp32(torch.device("meta"), "bf16") == 1.0


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="the limit is one of oneDNN's")
def test_bf16_without_its_instructions_is_found() -> None:
    """With oneDNN held to AVX2, which has no bfloat16."""
    code = (
        "import json, torch; from recmtl.train.device import times_fp32; "
        "print(json.dumps([times_fp32(torch.device('cpu'), p) for p in ('bf16', 'fp32')]))"
    )
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | limits, cwd=ROOT, capture_output=True, text=True, check=True
    )
    bf16, fp32 = json.loads(done.stdout)
    assert bf16 > module.SLOWER
    assert fp32 == 1.0


def start_lines(ready: recmtl.Trainer, data: recmtl.PreparedData) -> list[str]:
    return describe_setup(ready.setup, data.train, data.valid)


def test_the_start_names_threads_precision_and_library(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "onednn_is_exact", lambda: True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    line = "device: cpu, 2 threads waiting passively, fp32 by oneDNN"
    assert start_lines(trainer(aliexpress, threads=2), aliexpress)[3] == line
    monkeypatch.delenv("OMP_WAIT_POLICY")
    line = "device: cpu, 2 threads waiting actively, fp32 by oneDNN"
    assert start_lines(trainer(aliexpress, threads=2), aliexpress)[3] == line
    monkeypatch.setattr(module, "onednn_is_exact", lambda: False)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert start_lines(trainer(aliexpress), aliexpress)[3] == "device: cpu, 1 thread, fp32 by MKL"
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert start_lines(trainer(aliexpress), aliexpress)[3] == "device: cpu, 1 thread, fp32 by torch's BLAS"
    monkeypatch.setattr(module, "times_fp32", lambda device, precision: 0.65)
    line = "device: cpu, 1 thread, bf16 by oneDNN in 0.65 of fp32's time"
    assert start_lines(trainer(aliexpress, "bf16"), aliexpress)[3] == line


def test_the_start_warns_of_a_busy_machine(aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1e6, 0.0, 0.0))
    (*_, folder, busy) = start_lines(trainer(aliexpress), aliexpress)
    assert folder == "run folder: none"
    assert busy.startswith("the machine is busy: other work keeps ")
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert start_lines(trainer(aliexpress), aliexpress)[-1] == "run folder: none"


def test_training_and_predicting_use_the_threads_asked_for(
    aliexpress: recmtl.PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked[-1] if asked else 1)
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    ready = trainer(aliexpress, threads=3)
    ready.predictor.outputs(aliexpress.valid)
    assert asked == [3, 1]
    asked.clear()
    ready.fit(aliexpress.train)
    assert asked == [3, 1]
    with pytest.raises(ValueError, match="`threads` must be at least 1, got 0"):
        recmtl.RunConfig(threads=0)


@pytest.mark.parametrize(
    ("wanted", "given", "torchs", "usable", "used"),
    [(None, False, 8, 2, 2), (None, False, 2, 8, 2), (None, True, 8, 2, 8), (3, False, 8, 2, 3), (3, True, 1, 2, 3)],
)
def test_threads_follow_the_limit_of_a_container_unless_they_are_given(
    wanted: int | None, given: bool, torchs: int, usable: int, used: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [torchs]
    monkeypatch.setattr(torch, "get_num_threads", lambda: now[-1])
    monkeypatch.setattr(torch, "set_num_threads", now.append)
    monkeypatch.setattr(module, "THREADS_GIVEN", given)
    monkeypatch.setattr(module, "usable_cpus", lambda: usable)
    with module.cpu_threads(wanted):
        assert now[-1] == used
    assert now[-1] == torchs


@pytest.mark.parametrize("name", ["Sum", "GradNorm", "RotateOnly", "RotoGrad", "RotoGradNorm", "NormalizedSplitter"])
def test_a_model_in_float64_is_trained_in_it(name: str, small: recmtl.PreparedData) -> None:
    model = recmtl.MMOE(small.schema, layers=[4], tower_layers=[4], experts=2).double()
    run = recmtl.RunConfig(progress=False, device="cpu")
    trainer = recmtl.Trainer(
        model, getattr(recmtl, name)(), epochs=1, optimization=Optimization(batch_size=50), run=run
    )
    trainer.fit(small.train, small.valid)
    kinds = {state.dtype for state in model.state_dict().values() if state.is_floating_point()}
    assert kinds == {torch.float64}
