"""TF32 and bfloat16 for the model's products leave those of a balancer in float32."""

from __future__ import annotations

import itertools
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from twins import BALANCERS

import recmtl
from recmtl.balance import Balancer, project_conflicting
from recmtl.balance.backward import float32_products, full_precision
from recmtl.data import Batch, Loader
from recmtl.train import Optimization, Step

PACKAGE = str(Path(recmtl.__file__).parent) + os.sep
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linalg_matrix_exp")
WITH_PRODUCTS = (
    recmtl.AlignedMTL,
    recmtl.CAGrad,
    recmtl.DBMTL,
    recmtl.FairGrad,
    recmtl.GradVac,
    recmtl.RotateOnly,
    recmtl.RotoGrad,
    recmtl.RotoGradNorm,
)


class ProductPrecision(TorchDispatchMode):
    """Notes the precision of products on a GPU, whatever the device, apart for the balancer and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.of_balancer: set[str] = set()
        self.of_model: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            found = self.of_balancer if of_balancer() else self.of_model
            found.add(torch.backends.cuda.matmul.fp32_precision)
        return func(*args, **(kwargs or {}))


def of_balancer() -> bool:
    """Whether the innermost frame of the package is the balancer's; none within a backward pass is the model's."""
    for frame, _ in traceback.walk_stack(sys._getframe()):
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE) or path.endswith("torch/autograd/graph.py"):
            return path.startswith(f"{PACKAGE}balance{os.sep}")
    return False


def steps(method: type[Balancer], data: recmtl.PreparedData, device: str, **options: Any) -> ProductPrecision:
    torch.manual_seed(0)
    model = recmtl.MMOE(data.schema)
    balancer = recmtl.Trainer(model, method(**options), run=recmtl.RunConfig(device="cpu")).balancer
    step = Step(model.to(device), balancer, Optimization(precision="tf32"), 3)
    with ProductPrecision() as found:
        for batch in itertools.islice(Loader(data.train, 50, seed=0).epoch(), 3):
            step(Batch(*(tensor.to(device) for tensor in (batch.ids, batch.numeric, batch.labels))))
    return found


@pytest.mark.parametrize("method", BALANCERS, ids=lambda method: method.__name__)
def test_a_balancer_computes_in_float32_while_the_model_takes_tf32(
    method: type[Balancer], aliexpress: recmtl.PreparedData, without_values: str
) -> None:
    """On a device without values, which is treated as a GPU."""
    found = steps(method, aliexpress, without_values)
    assert found.of_model == {"tf32"}
    assert found.of_balancer == ({"ieee"} if method in WITH_PRODUCTS else set())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        (recmtl.NormalizedSplitter, {"projection": "before"}),
        (recmtl.NormalizedSplitter, {"projection": "after"}),
        (recmtl.RotoGrad, {"orthogonal_map": "matrix_exp"}),
    ],
)
def test_other_products_of_a_balancer_are_in_float32_too(
    method: type[Balancer], options: dict[str, Any], aliexpress: recmtl.PreparedData, without_values: str
) -> None:
    assert steps(method, aliexpress, without_values, **options).of_balancer == {"ieee"}


@pytest.mark.parametrize("mode", ["cooperative", "evaluation"])
def test_every_mode_of_rotations_computes_in_float32(mode: str, without_values: str) -> None:
    balancer = recmtl.RotoGrad(heads=2, features=3, rotation_size=2).to(without_values)
    balancer = balancer.coop() if mode == "cooperative" else balancer.eval()
    view = torch.zeros(4, 3, device=without_values, requires_grad=True)
    with full_tf32(), ProductPrecision() as found:
        if mode == "cooperative":
            balancer.backward([v.sum() for v in balancer.fork([view, view])], [view])
        else:
            with torch.no_grad():
                balancer.fork([view, view])
    assert (found.of_balancer, found.of_model) == ({"ieee"}, set())


def test_projections_of_tensors_are_computed_in_float32(without_values: str) -> None:
    with full_tf32(), ProductPrecision() as found:
        project_conflicting(torch.zeros(2, 3, device=without_values))
    assert found.of_balancer == {"ieee"}


class full_tf32:  # noqa: N801
    """All products of a GPU in TF32 within a block."""

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.fp32_precision
        torch.backends.cuda.matmul.fp32_precision = "tf32"

    def __exit__(self, *_: object) -> None:
        torch.backends.cuda.matmul.fp32_precision = self.before


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_products_are_those_of_float32_whatever_the_precision_of_others(precision: str) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    on_cpu = torch.backends.mkldnn.matmul.fp32_precision
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), float32_products(torch.device("cpu")):
            assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16), full_precision(torch.device("cpu")):
            assert torch.backends.mkldnn.matmul.fp32_precision == on_cpu
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        for block in (float32_products, full_precision):
            with block(torch.device("cuda")):
                assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
