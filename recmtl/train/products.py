"""Products of float32 matrices: on a CPU by the faster of torch's two libraries, on a GPU in TF32 if asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import torch

from recmtl.train.options import Precision

EXACT = 1e-6  # relative; a float32 product of these sizes by either library is within 4e-7


@contextmanager
def fast_products(device: torch.device, precision: Precision = "fp32") -> Iterator[None]:
    """Let oneDNN multiply on a CPU within the block, if it computes in float32 there; allow TF32 on a GPU if asked.

    torch hands float32 products to oneDNN when it is told that bfloat16 precision is enough. On processors without
    instructions for such products oneDNN computes them in float32 all the same, more than twice as fast as MKL does
    on some. Where it really computes in bfloat16 nothing is changed.
    """
    if device.type == "cpu" and exact():
        with by_onednn():
            yield
    elif precision == "tf32":
        with in_tf32():
            yield
    else:
        yield


def by_onednn() -> AbstractContextManager[None]:
    """Hand float32 products to oneDNN within the block."""
    return setting(torch.backends.mkldnn.matmul, "fp32_precision", "bf16")  # type: ignore[attr-defined]


def in_tf32() -> AbstractContextManager[None]:
    """Round the factors of float32 products on a GPU to TF32 within the block."""
    matmul = torch.backends.cuda.matmul
    newer = hasattr(matmul, "fp32_precision")
    return setting(matmul, "fp32_precision", "tf32") if newer else setting(matmul, "allow_tf32", True)


@contextmanager
def setting(holder: object, name: str, value: object) -> Iterator[None]:
    """Set one of torch's settings within the block."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@cache
def exact() -> bool:
    """Whether the products stay float32, forward and backward: decided by comparing each with one in float64."""
    if not hasattr(torch.backends.mkldnn, "matmul"):  # an older torch
        return False
    with by_onednn():
        return largest_error() < EXACT


def largest_error() -> float:
    """The largest relative error of a linear layer's three products and of a batched one."""
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
