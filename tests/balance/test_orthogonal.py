"""Rotations from skew-symmetric matrices, held to torch's own parametrization and to float64, also with two threads."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal
from torch.utils._python_dispatch import TorchDispatchMode

from recmtl.balance.orthogonal import (
    RotationMatrices,
    cayley,
    gradient_of_pairs,
    gradient_of_skew,
    rotated,
    rotated_back,
)

SIZES = (128, 150, 160, 191, 192, 256, 319)
CLOSE = 1e-6


def skew(heads: int, size: int, scale: float, seed: int = 0) -> torch.Tensor:
    lower = scale * torch.randn(heads, size, size, generator=torch.Generator().manual_seed(seed)).tril(-1)
    return lower - lower.mT


def solved(S: torch.Tensor) -> torch.Tensor:
    """The naive twin: (I − S)⁻¹(I + S) in float64, one matrix after the other."""
    unit = torch.eye(S.shape[-1], dtype=torch.float64)
    return torch.stack([torch.linalg.solve(unit - one, unit + one) for one in S.double()])


def largest(difference: torch.Tensor) -> float:
    return difference.abs().max().item()


def errors(size: int) -> dict[str, float]:
    """The largest errors of float32 rotations near to and far from the identity, and of their gradients."""
    found = {"rotation": 0.0, "orthogonality": 0.0, "gradient": 0.0}
    for scale in (1e-3, size**-0.5, 0.5):
        S = skew(2, size, scale).requires_grad_()
        exact = S.detach().double().requires_grad_()
        slope = torch.randn(2, size, size, generator=torch.Generator().manual_seed(1))
        R, expected = cayley(S), solved(exact)
        (R * slope).sum().backward()
        (expected * slope).sum().backward()
        R, unit = R.detach().double(), torch.eye(size, dtype=torch.float64)
        step = {
            "rotation": largest(R - expected),
            "orthogonality": largest(R.mT @ R - unit),
            "gradient": ((S.grad - exact.grad).norm() / exact.grad.norm()).item(),
        }
        found = {name: max(found[name], step[name]) for name in found}
    return found


def trained(size: int, steps: int) -> float:
    """The largest entry of RᵀR − I after steps of Adam on a planted problem."""
    torch.manual_seed(0)
    rotations, wanted = RotationMatrices(2, size, "cayley"), solved(skew(2, size, 0.5)).float()
    optimizer = torch.optim.Adam(rotations.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        (rotations() - wanted).square().sum().backward()
        optimizer.step()
    R = rotations().detach().double()
    assert (R - wanted).norm() < 0.1 * (torch.eye(size) - wanted).norm()
    return largest(R.mT @ R - torch.eye(size, dtype=torch.float64))


def test_with_two_threads() -> None:
    """In a process of its own, as the tests run with one thread each."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}  # other tests run beside it
    run = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "oneMKL ERROR" not in run.stderr
    found = json.loads(run.stdout)
    assert found["threads"] == 2
    assert list(found["errors"]) == [str(size) for size in SIZES]
    assert all(error < CLOSE for errors in found["errors"].values() for error in errors.values()), found
    assert found["trained"] < CLOSE


@pytest.mark.parametrize("orthogonal_map", ["cayley", "matrix_exp"])
def test_rotations_are_those_of_torch(orthogonal_map: str) -> None:
    twin = nn.Module()
    twin.weight = nn.Parameter(torch.eye(4, dtype=torch.float64).repeat(3, 1, 1))
    orthogonal(twin, "weight", orthogonal_map)
    rotations = RotationMatrices(3, 4, orthogonal_map).double()
    assert rotations().equal(twin.weight)  # the identity
    with torch.no_grad():
        twin.parametrizations.weight.original.copy_(rotations.weight.normal_())
    torch.testing.assert_close(rotations(), twin.weight, rtol=1e-13, atol=1e-14)
    slope = torch.randn(3, 4, 4, dtype=torch.float64)
    (rotations() * slope).sum().backward()
    (twin.weight * slope).sum().backward()
    expected = twin.parametrizations.weight.original.grad
    torch.testing.assert_close(rotations.weight.grad, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("size", [1, 5, 33, 129, 300])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0])
def test_factors_rotate_rows_and_give_the_gradient_of_the_matrices(
    size: int, dtype: torch.dtype, close: float, scale: float
) -> None:
    """Held to the matrices in float64 and their gradient by autograd, for few rows and for many."""
    rotations = RotationMatrices(2, size, "cayley").to(dtype)
    with torch.no_grad():
        rotations.weight.copy_(skew(2, size, scale)).add_(1.0)  # what is on and above the diagonal does not count
    exact = rotations.weight.detach().double().requires_grad_()
    lower = exact.tril(-1)
    R = solved((lower - lower.mT) / 2)
    factors = rotations.factors()
    for rows in (3, 2 * size + 1):
        h, v = torch.randn(2, 2, rows, size, generator=torch.Generator().manual_seed(1), dtype=dtype)
        g = torch.stack(rotated(h, factors))
        turned = h.double() @ R.detach().mT
        assert (g - turned).norm() <= close * h.norm()
        assert (rotated_back(g, factors) - h).norm() <= close * h.norm()
        Q = v.double().mT @ h.double() - h.double().mT @ v.double()
        (expected,) = torch.autograd.grad(R, exact, R.detach() @ Q, retain_graph=True)
        for found in (gradient_of_pairs(h, g, v, factors), gradient_of_skew(Q.to(dtype), factors)):
            assert found.triu().count_nonzero() == 0
            assert (found - expected).norm() <= close * expected.norm()


def test_a_step_needs_the_weights_no_more_once_the_factors_exist() -> None:
    """As in-place changes of what a graph has saved are refused."""
    rotations = RotationMatrices(2, 200, "cayley")
    factors = rotations.factors()
    with torch.no_grad():
        rotations.weight.add_(1.0)
    torch.autograd.backward(factors[0], torch.ones(2, 200, 200).tril(-1))
    assert rotations.weight.grad is not None


def test_the_gradient_is_that_of_differences() -> None:
    assert torch.autograd.gradcheck(
        lambda S: cayley(S - S.mT), torch.randn(2, 5, 5, dtype=torch.float64).requires_grad_()
    )


def test_the_gradient_of_matrix_exp_is_that_of_torch() -> None:
    """To the bit, so that it changes nothing but the precision of products on a GPU."""
    torch.manual_seed(0)
    rotations = RotationMatrices(3, 6, "matrix_exp")
    with torch.no_grad():
        rotations.weight.normal_()
    skew = (rotations.weight.detach().tril(-1) - rotations.weight.detach().tril(-1).mT).requires_grad_()
    slope = torch.randn(3, 6, 6)
    R = torch.linalg.matrix_exp(skew)
    (R * slope).sum().backward()
    (rotations() * slope).sum().backward()
    assert rotations().equal(R)
    assert rotations.weight.grad.equal((skew.grad - skew.grad.mT).tril(-1))


def test_no_shape_depends_on_a_value(without_values: str) -> None:
    S = torch.zeros(2, 200, 200, device=without_values, requires_grad=True)
    cayley(S).sum().backward()
    assert S.grad.shape == S.shape


class OfOneMatrix(TorchDispatchMode):
    """Refuses linear algebra on several matrices at once, for which torch takes MAGMA on a GPU, and waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.inverted = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "linalg" in str(func) and "vector" not in str(func):
            assert all(arg.dim() == 2 for arg in args if isinstance(arg, torch.Tensor)), func
            self.inverted += "inv" in str(func)
        assert not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("size", [16, 128, 129, 512])
def test_matrices_are_inverted_one_by_one_without_a_look_at_a_value(without_values: str, size: int) -> None:
    S = torch.zeros(3, size, size, device=without_values, requires_grad=True)
    with OfOneMatrix() as seen:
        cayley(S).sum().backward()
    assert seen.inverted == 3


if __name__ == "__main__":
    torch.set_num_threads(2)
    by_size = {size: errors(size) for size in SIZES}
    sys.stdout.write(json.dumps({"threads": torch.get_num_threads(), "errors": by_size, "trained": trained(128, 1000)}))
