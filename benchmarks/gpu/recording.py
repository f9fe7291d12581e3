"""What is recorded alone: products of odd widths, the forms of rotations, and a record after one that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.contender import median_seconds
from benchmarks.gpu.sections import Row, attempted
from recmtl.balance.orthogonal import cayley
from recmtl.train.cuda_graph import WARM_UP_STEPS, CudaGraph, reason_of

# The width that the model reads: 16 embeddings of width 128 and 63 numbers as they are, or as splines of width 2; both
# also padded to rows whose addresses are aligned to 16 bytes.
WIDTHS = (2111, 2112, 2174, 2176)
ITERATIONS = 24  # of Newton and Schulz
ORTHOGONAL = 1e-5  # largest error of a rotation in float32


def record_alone(work: Callable[[], Tensor], device: str) -> tuple[str, CudaGraph, Tensor]:
    """Record a work after warm-ups; return ``yes`` or why not, the graph, and the tensor that replays write."""
    graph = CudaGraph(torch.device(device))
    for _ in range(WARM_UP_STEPS):
        result = graph.warm_up(work)
    try:
        return "yes", graph, graph.record(work)
    except RuntimeError as error:
        return f"no: {reason_of(error, work)}", graph, result


def widths(bench: Bench) -> Iterator[Row]:
    """Time the three products of a layer that reads rows of each width."""
    outputs = bench.form.experts * bench.form.layers[0]
    for rows in (bench.form.small, bench.form.large):
        for width in WIDTHS:
            yield attempted(f"{rows:,} rows of {width:,}", partial(products, bench, rows, width, outputs))


def products(bench: Bench, rows: int, width: int, outputs: int) -> dict[str, Any]:
    dtype = torch.bfloat16 if bench.precision == "bf16" else torch.float32
    shapes = ((rows, width), (outputs, width), (rows, outputs))
    x, weight, gradient = (torch.randn(*shape, device=bench.device, dtype=dtype) for shape in shapes)
    work: dict[str, Callable[[], Tensor]] = {
        "forward": lambda: x @ weight.T,
        "to_inputs": lambda: gradient @ weight,
        "to_weights": lambda: gradient.T @ x,
    }
    taken = {name: median_seconds(each, bench.form.rounds) for name, each in work.items()}
    rate = 2 * 3 * rows * width * outputs / sum(taken.values()) / 1e12
    return {**{f"{name}_ms": 1000 * t for name, t in taken.items()}, "tflop_per_second": rate}


def inverse_of_all(skew: Tensor) -> Tensor:
    unit = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    inverse: Tensor = torch.linalg.inv_ex(unit - skew)[0]
    return 2 * inverse - unit


def solve_of_all(skew: Tensor) -> Tensor:
    unit = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device).expand_as(skew)
    solution: Tensor = torch.linalg.solve_ex(unit - skew, unit + skew)[0]
    return solution


def by_products(skew: Tensor) -> Tensor:
    """Invert I + SᵀS by the iteration of Newton and Schulz: (I − S)⁻¹ = (I + S)(I + SᵀS)⁻¹."""
    unit = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    positive = unit + skew.mT @ skew
    inverse = unit / positive.abs().sum(-1).amax(-1)[:, None, None]
    for _ in range(ITERATIONS):
        inverse = 2 * inverse - inverse @ positive @ inverse
    return 2 * (unit + skew) @ inverse - unit


FORMS = {
    "cayley": cayley,
    "inverse of all heads": inverse_of_all,
    "solve of all heads": solve_of_all,
    "products alone": by_products,
    "matrix_exp": torch.linalg.matrix_exp,
}
MUST_BE_RECORDED = ("cayley",)


def rotations(bench: Bench) -> Iterator[Row]:
    """Record each form of a rotation, forward and backward, and hold its replay to float64."""
    for name in FORMS:  # the package's own first: records of others may fail
        for size in bench.form.rotation:
            for heads in (1, 2):
                yield attempted(f"{name}, {heads} of {size}", partial(rotation, bench, name, heads, size))


def rotation(bench: Bench, name: str, heads: int, size: int) -> dict[str, Any]:
    torch.manual_seed(0)
    lower = (torch.randn(heads, size, size, device=bench.device) / size**0.5).tril(-1)
    skew = (lower - lower.mT).requires_grad_()
    weights = torch.randn(heads, size, size, device=bench.device)

    def work() -> Tensor:
        found = FORMS[name](skew)
        (gradient,) = torch.autograd.grad(found, skew, weights)
        return torch.stack([found.detach(), gradient])

    recorded, graph, result = record_alone(work, bench.device)
    values: dict[str, Any] = {"recorded": recorded, "launched_ms": 1000 * median_seconds(work, bench.form.rounds)}
    if recorded == "yes":
        values["replayed_ms"] = 1000 * median_seconds(graph.replay, bench.form.rounds)
    found = result[0].double()
    unit = torch.eye(size, dtype=torch.float64, device=bench.device)
    values["orthogonal_to"] = float((found.mT @ found - unit).abs().max())
    exact = torch.linalg.solve(unit - skew.detach().double(), unit + skew.detach().double())
    if name != "matrix_exp":
        values["from_float64"] = float((found - exact).abs().max())
    if name in MUST_BE_RECORDED and (recorded != "yes" or values["orthogonal_to"] > ORTHOGONAL):
        values["failed"] = f"recorded: {recorded}, orthogonal to {values['orthogonal_to']:.1e}"
    return values


def after_failures(bench: Bench) -> Iterator[Row]:
    """Let records fail by a look at a value and by an error of Python's; those that follow must work."""
    x = torch.ones(64, 64, device=bench.device)

    def looking() -> Tensor:
        return x if float(x.sum()) > 0 else -x

    def buggy() -> Tensor:
        raise RuntimeError("a planted error")

    def dropped() -> Tensor:
        return F.dropout(x, 0.5)

    def again(failing: Callable[[], Tensor]) -> dict[str, Any]:
        graph = CudaGraph(torch.device(bench.device))
        try:
            graph.record(failing)
        except RuntimeError as error:
            reason = reason_of(error, failing)
        else:
            return {"failed": "the planted failure was recorded"}
        torch.cuda.empty_cache()
        recorded, graph, result = record_alone(dropped, bench.device)
        draws = set()
        for _ in range(4):
            graph.replay()
            draws.add(float(result.sum()))
        failed = {} if recorded == "yes" and len(draws) > 1 else {"failed": f"{recorded}, {len(draws)} draws"}
        return {"reason": reason, "recorded": recorded, "draws": len(draws), **failed}

    yield attempted("after a look at a value", partial(again, looking))
    yield attempted("after an error of Python's", partial(again, buggy))
