"""Precision of matrix products: oneDNN only if its products are float32, TF32 on request."""

from types import SimpleNamespace

import pytest
import torch

import recmtl
from recmtl.train import device as products
from recmtl.train.device import check_gpu_options, matmul_precision, onednn_is_exact

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _forget() -> None:
    onednn_is_exact.cache_clear()
    yield
    onednn_is_exact.cache_clear()


def setting() -> str:
    return torch.backends.mkldnn.matmul.fp32_precision


def test_products_in_the_block_are_float32() -> None:
    """On every processor: if oneDNN computes in bfloat16 (error 2e-3), the setting is not changed."""
    torch.manual_seed(0)
    a, b = torch.randn(300, 200), torch.randn(200, 100)
    with matmul_precision(CPU):
        found = a @ b
    expected = a.double() @ b.double()
    assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("error", [1e-7, 2e-3])
def test_onednn_is_used_if_it_is_exact_and_the_setting_is_restored(
    monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    before, seen = setting(), []
    monkeypatch.setattr(products, "largest_error", lambda: seen.append(setting()) or error)
    with matmul_precision(CPU):
        assert setting() == ("bf16" if error < 1e-6 else before)
    assert seen == ["bf16"]
    assert setting() == before
    with pytest.raises(KeyError), matmul_precision(CPU):
        raise KeyError
    assert setting() == before


def test_other_devices_are_left_alone() -> None:
    before = setting()
    with matmul_precision(torch.device("meta")):
        assert setting() == before


def test_tf32_on_request() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    for precision, within in (("fp32", before), ("tf32", "tf32"), ("bf16", before)):
        with matmul_precision(torch.device("cuda"), precision):
            assert matmul.fp32_precision == within
        assert matmul.fp32_precision == before


def test_gpu_options_are_refused_on_a_cpu(aliexpress: recmtl.PreparedData) -> None:
    for options, message in (
        (recmtl.Optimization(precision="tf32"), "'tf32' is for a CUDA device, got 'cpu': take 'fp32' or 'bf16'"),
        (recmtl.Optimization(cuda_graph=True), "`cuda_graph` is for a CUDA device, got 'cpu': leave it out"),
    ):
        with pytest.raises(ValueError, match=message):
            recmtl.Trainer(recmtl.ESMM(aliexpress.schema), optimization=options, run=recmtl.RunConfig(device="cpu"))
    with pytest.raises(ValueError, match="`cuda_graph` must be true, false or none, got 'yes'"):
        recmtl.Optimization(cuda_graph="yes")


def test_steps_of_several_processes_are_not_recorded() -> None:
    processes, cuda = SimpleNamespace(size=2), torch.device("cuda")
    with pytest.raises(ValueError, match="`cuda_graph` records the steps of a single process, got 2 processes: leave"):
        check_gpu_options(recmtl.Optimization(cuda_graph=True), cuda, processes)
    check_gpu_options(recmtl.Optimization(precision="tf32"), cuda, processes)
