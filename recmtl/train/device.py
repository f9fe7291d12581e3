"""The device: choice, threads, precision of products and its speed, reuse of freed memory, and RNG state."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from recmtl.balance import ProcessGroup
from recmtl.errors import RunError
from recmtl.io.machine import THREADS_GIVEN, usable_cpus
from recmtl.models import RankingModel
from recmtl.train.distributed import local_rank
from recmtl.train.options import Optimization, Precision

TRAINED: dict[nn.Module, int] = {}  # models, and the threads that train them
JOINED: dict[Hashable, tuple[AbstractContextManager[None], int]] = {}  # blocks, and the threads that are in each
JOINING = threading.RLock()


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


GPU_PRECISIONS = ("tf32", "fp16")


def check_gpu_options(optimization: Optimization, device: torch.device, processes: ProcessGroup) -> None:
    """Raise a `ValueError` if an option requires a GPU, or a single process on one."""
    precision = optimization.precision
    if device.type == "cuda":
        if optimization.cuda_graph and processes.size > 1:
            raise ValueError(
                f"`cuda_graph` records the steps of a single process, got {processes.size} processes: leave it out"
            )
        return
    if precision in GPU_PRECISIONS:
        raise ValueError(f"`precision` {precision!r} is for a CUDA device, got {str(device)!r}: take 'fp32' or 'bf16'")
    if optimization.cuda_graph:
        raise ValueError(f"`cuda_graph` is for a CUDA device, got {str(device)!r}: leave it out")


@contextmanager
def cpu_threads(wanted: int | None) -> Iterator[None]:
    """Use a number of CPU threads within the block.

    Args:
        wanted: The number; ``None`` takes torch's, at most the CPUs that the process may use if ``OMP_NUM_THREADS`` was
            not set. torch itself does not know of a container's limit of CPU time.
    """
    before = torch.get_num_threads()
    threads = wanted or (before if THREADS_GIVEN else min(before, usable_cpus()))
    if threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads != before:
            torch.set_num_threads(before)


@contextmanager
def trained_alone(model: nn.Module, device: torch.device, threads: int | None) -> Iterator[None]:
    """Train a model within the block: with gradients, in the precision of the options, on a number of CPU threads.

    Args:
        model: The model.
        device: Its device.
        threads: See `cpu_threads`.

    Raises:
        ValueError: Its weights are in half precision.
        RunError: It is being trained already, or no weight of it requires a gradient.
    """
    check_weights(model)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise RunError("no weight of the model requires a gradient: leave some to train, by `requires_grad_()`")
    with JOINING:
        if model in TRAINED:
            raise RunError("the model is being trained already: train a copy, such as `copy.deepcopy(model)`")
        TRAINED[model] = threading.get_ident()
    try:
        with (
            cpu_threads(threads),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        del TRAINED[model]


def check_model(model: object) -> None:
    """Raise a `ValueError` if an object is no model of recmtl, or has weights that cannot be trained."""
    if not isinstance(model, RankingModel):
        advice = "compile it in place by `model.compile()`" if hasattr(model, "_orig_mod") else "such as `recmtl.MMOE`"
        name = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise ValueError(f"`model` must be a `RankingModel`, got {name}: {advice}")
    check_weights(model)
    if any(weight.is_inference() for weight in model.parameters()):
        raise ValueError("the model was made in `torch.inference_mode`, so that it cannot be trained: make it outside")


def check_weights(model: nn.Module) -> None:
    """Raise a `ValueError` if the weights of a model are in half precision, which the steps of an optimizer lose."""
    found = {weight.dtype for weight in model.parameters()}
    if found and found <= {torch.float16, torch.bfloat16}:
        raise ValueError(
            f"the weights of the model are in {found.pop()}: keep them in float32, by `model.float()`, and take "
            "`Optimization(precision='bf16')` if products are to be computed in bf16"
        )


def check_untrained(model: nn.Module) -> None:
    """Raise a `RunError` if another thread is training a model, whose modes and weights are those of training."""
    if TRAINED.get(model) not in (None, threading.get_ident()):
        raise RunError(
            "another thread is training the model: predict with a copy made before, such as `copy.deepcopy(model)`"
        )


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
def joined(key: Hashable, block: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Enter a block with the first of the threads that ask for it by a key, and leave it with the last."""
    with JOINING:
        entered, count = JOINED.get(key) or (block(), 0)
        if not count:
            entered.__enter__()
        JOINED[key] = entered, count + 1
    try:
        yield
    finally:
        with JOINING:
            entered, count = JOINED.pop(key)
            if count > 1:
                JOINED[key] = entered, count - 1
            else:
                entered.__exit__(None, None, None)


def attribute_set(holder: object, name: str, value: object) -> AbstractContextManager[None]:
    """Set an attribute within the block, which several threads may be in."""

    @contextmanager
    def block() -> Iterator[None]:
        before = getattr(holder, name)
        setattr(holder, name, value)
        try:
            yield
        finally:
            setattr(holder, name, before)

    return joined((holder, name, value), block)


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


# Rows, inputs and outputs of the linear layer that is timed. On a GPU smaller ones would time launches.
PROBED = {"cpu": (512, 128, 128), "cuda": (8192, 1024, 1024)}
SLOWER = 1.25  # times fp32's time; below it, other work on the machine may have made the difference
MEASUREMENTS = 9  # at most, of each precision


def check_precision(device: torch.device, precision: Precision, processes: ProcessGroup) -> None:
    """Raise a `ValueError`, in all processes, if a precision is slower than fp32 on the device of one.

    Such is bf16 on a CPU without its instructions.
    """
    ratio = max(processes.all_gather_object(times_fp32(device, precision)))
    if ratio > SLOWER:
        raise ValueError(f"{slower_text(device, precision, ratio)}: take 'fp32'")


def inference_options(device: torch.device, options: Optimization) -> Optimization:
    """Return the options to predict with: those given, or with fp32 and a warning if their precision is slower."""
    ratio = times_fp32(device, options.precision)
    if ratio <= SLOWER:
        return options
    warnings.warn(f"{slower_text(device, options.precision, ratio)}: predictions are computed in 'fp32'")
    return replace(options, precision="fp32")


def slower_text(device: torch.device, precision: Precision, ratio: float) -> str:
    """Return the words on a precision that is slower than fp32."""
    place = "CPU" if device.type == "cpu" else "GPU"
    return f"`precision` {precision!r} takes {ratio:.1f} times as long as 'fp32' on this {place}"


@cache
def times_fp32(device: torch.device, precision: Precision) -> float:
    """Return the time of a linear layer, forward and backward, as a multiple of its time in fp32.

    The two precisions are timed in turn, so that other work on the machine slows both, and the fastest of each counts.
    It is measured again while the precision seems slower by less than three times. 1 for fp32, and for devices other
    than CPUs and GPUs.
    """
    if precision == "fp32" or device.type not in PROBED:
        return 1.0
    options = {each: Optimization(precision=each) for each in ("fp32", precision)}
    fastest = dict.fromkeys(options, float("inf"))
    for measurement in range(MEASUREMENTS):
        for each, option in options.items():
            seconds = linear_seconds(device, option)
            if measurement > 0:  # the first loads kernels
                fastest[each] = min(fastest[each], seconds)
        ratio = fastest[precision] / fastest["fp32"] if measurement else 0.0
        if measurement > 1 and (ratio <= 1 or ratio > 3):
            break
    return ratio


def linear_seconds(device: torch.device, options: Optimization) -> float:
    """Return the seconds of one linear layer, forward and backward, in the options' precision."""
    rows, inputs, outputs = PROBED[device.type]
    with torch.inference_mode(False), torch.enable_grad(), matmul_precision(device, options.precision):
        x = torch.ones(rows, inputs, device=device, requires_grad=True)
        weight = torch.ones(outputs, inputs, device=device, requires_grad=True)
        wait(device)
        start = time.perf_counter()
        with autocast(device, options):
            y: Tensor = linear(x, weight)
        torch.autograd.grad(y.sum(dtype=torch.float32), (x, weight))
        wait(device)
        return time.perf_counter() - start


def wait(device: torch.device) -> None:
    """Wait until a GPU has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def product_library(device: torch.device, precision: Precision) -> str:
    """Return the name of the library that computes matrix products on a device."""
    if device.type != "cpu":
        return "cuBLAS" if device.type == "cuda" else device.type
    onednn, mkl = torch.backends.mkldnn.is_available(), torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
    if onednn and (precision == "bf16" or onednn_is_exact()):
        return "oneDNN"
    return "MKL" if mkl else "torch's BLAS"


def describe_precision(device: torch.device, precision: Precision) -> str:
    """Return precision and library in words, with the time beside fp32's: ``bf16 by oneDNN in 0.45 of fp32's time``."""
    by = f"{precision} by {product_library(device, precision)}"
    return by if precision == "fp32" else f"{by} in {times_fp32(device, precision):.2f} of fp32's time"


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Return torch's RNG state, of the CPU and of a GPU."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_rng_state(device: torch.device, states: Mapping[str, Tensor]) -> None:
    """Set torch's RNG state to one that `rng_state` returned."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
