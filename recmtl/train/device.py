"""The device: choice, precision of products, reuse of freed memory, and RNG state."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import torch
from torch import Tensor

from recmtl.balance import ProcessGroup
from recmtl.train.distributed import local_rank
from recmtl.train.options import Optimization, Precision


def device_name(wanted: str | None, processes: ProcessGroup) -> str:
    """Return the name of the device of this process: of several on a machine, each gets its own GPU."""
    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    return f"cuda:{local_rank(processes)[0]}" if device == "cuda" and processes.size > 1 else device


def open_device(device: str) -> torch.device:
    """Return the device of a name; raise a `ValueError` if no tensor can be created on it."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"`device` {device!r} cannot be used: {str(error).splitlines()[0]}") from error


def check_gpu_options(optimization: Optimization, device: torch.device) -> None:
    """Raise a `ValueError` if an option requires a GPU."""
    precision = optimization.precision
    if precision in ("tf32", "fp16"):
        raise ValueError(f"`precision` {precision!r} is for a CUDA device, got {str(device)!r}: take 'fp32' or 'bf16'")
    if optimization.cuda_graph:
        raise ValueError(f"`cuda_graph` is for a CUDA device, got {str(device)!r}: leave it out")


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
KEPT_BYTES, MMAP_BYTES = 1 << 30, 32 << 20  # the second is the maximum that glibc accepts


def keep_freed_memory() -> bool:
    """Let malloc keep up to 1 GiB of freed memory for the next allocations.

    A training step frees what the next one allocates. By default glibc returns large blocks to the system each time,
    which hands them back page by page, cleared: milliseconds per step.

    Returns:
        Whether the C library accepted the setting; those other than glibc are left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    settings = {MMAP_THRESHOLD: MMAP_BYTES, TRIM_THRESHOLD: KEPT_BYTES}
    return mallopt is not None and all(mallopt(name, value) for name, value in settings.items())


EXACT = 1e-6  # relative error; float32 products of these sizes are within 4e-7 in both libraries


@contextmanager
def matmul_precision(device: torch.device, precision: Precision = "fp32") -> Iterator[None]:
    """Use oneDNN for matrix products on a CPU within the block, if it computes in float32; TF32 on a GPU if asked.

    torch uses oneDNN for float32 products if bfloat16 precision is allowed. On processors without bfloat16
    instructions, oneDNN still computes them in float32, on some more than twice as fast as MKL. On processors where it
    really computes in bfloat16, nothing is changed.
    """
    if device.type == "cpu" and onednn_is_exact():
        with use_onednn():
            yield
    elif precision == "tf32":
        with use_tf32():
            yield
    else:
        yield


def use_onednn() -> AbstractContextManager[None]:
    """Use oneDNN for float32 products within the block."""
    return attribute_set(torch.backends.mkldnn.matmul, "fp32_precision", "bf16")  # type: ignore[attr-defined]


def use_tf32() -> AbstractContextManager[None]:
    """Allow TF32 for float32 products on a GPU within the block."""
    matmul = torch.backends.cuda.matmul
    newer = hasattr(matmul, "fp32_precision")
    return attribute_set(matmul, "fp32_precision", "tf32") if newer else attribute_set(matmul, "allow_tf32", True)


@contextmanager
def attribute_set(holder: object, name: str, value: object) -> Iterator[None]:
    """Set an attribute within the block."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@cache
def onednn_is_exact() -> bool:
    """Return whether oneDNN's products have float32 precision, forward and backward, by comparing with float64."""
    if not hasattr(torch.backends.mkldnn, "matmul"):  # an older torch
        return False
    with use_onednn():
        return largest_error() < EXACT


def largest_error() -> float:
    """Return the largest relative error of a linear layer's three products and of a batched one."""
    generator = torch.Generator().manual_seed(0)
    x, w, g = (torch.randn(*size, generator=generator) for size in ((512, 320), (256, 320), (512, 256)))
    bias, batched = torch.zeros(256), torch.randn(8, 64, 320, generator=generator)
    products = [
        (torch.addmm(bias, x, w.T), x.double() @ w.T.double()),
        (g @ w, g.double() @ w.double()),
        (g.T @ x, g.T.double() @ x.double()),
        (batched @ w.T.expand(8, -1, -1), batched.double() @ w.T.double()),
    ]
    return max(float((found - exact).norm() / exact.norm()) for found, exact in products)


def autocast(device: torch.device, options: Optimization) -> torch.autocast:
    """Return the autocast context of the options' precision."""
    dtype = torch.float16 if options.precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=options.precision in ("bf16", "fp16"))


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Return torch's RNG state, of the CPU and of a GPU."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Set torch's RNG state to one that `rng_state` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
