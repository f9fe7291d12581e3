"""Convex problems in K unknowns: solved in float64, by a bounded number of operations, without waiting for a device."""

import torch
from torch import Tensor

from recmtl.balance.backward import masked, on_host

LARGEST = 32  # unknowns
_ITERATIONS = 30
_TOLERANCE = 1e-14


def nonnegative_quadratic(matrix: Tensor, linear: Tensor) -> Tensor:
    """Return the x ≥ 0 that minimizes ½·xᵀQx + cᵀx, by a predictor-corrector interior-point method.

    Mehrotra, "On the implementation of a primal-dual interior point method", SIAM Journal on Optimization 1992. On a
    CPU it stops once all problems are solved, after 8 to 15 iterations; elsewhere it takes all 30, each of which
    factors one matrix. A problem that is solved no longer moves. One or two unknowns have a closed form.

    The conditions of the minimum, x ≥ 0, Qx + c ≥ 0 and xᵀ(Qx + c) = 0, hold within 1e-11 of the largest |c_k| times
    1 + the largest x_k, whatever the rank of Q is without its ridge.

    Args:
        matrix: Positive definite matrices Q with ones on the diagonal.
        linear: The linear terms c.

    Shape:
        - matrix: float64 `[..., K, K]`.
        - linear: float64 `[..., K]`.
        - output: float64 `[..., K]`.

    Example:
        >>> import torch
        >>> nonnegative_quadratic(torch.eye(3).double(), torch.tensor([-2.0, 1.0, -0.5]).double()).round(decimals=9)
        tensor([2.0000, 0.0000, 0.5000], dtype=torch.float64)
    """
    if linear.shape[-1] == 1:
        return (-linear).clamp(min=0.0)
    if linear.shape[-1] == 2:
        return _nonnegative_pair(matrix, linear)
    scale = linear.abs().amax(-1, keepdim=True).clamp(min=1e-300)  # [..., 1]
    c = (linear / scale).unsqueeze(-1)  # columns from here on, [..., K, 1]
    unit = torch.eye(linear.shape[-1], dtype=linear.dtype, device=linear.device)
    x = torch.ones_like(c)
    z = x  # Qx + c, once it is solved
    for _ in range(_ITERATIONS):
        slope, product = matrix @ x + c, x * z
        open_ = (1e4 * product + (slope - z).abs()).amax(-2, keepdim=True) > _TOLERANCE * (1 + x.amax(-2, keepdim=True))
        if on_host(x) and not bool(open_.any()):
            break
        factor, failed = torch.linalg.cholesky_ex(torch.addcmul(matrix, unit, z / x))
        # Changes of x and z in parts of what they are. The predictor aims at x·z = 0.
        dx = -torch.cholesky_solve(slope, factor) / x
        dz = -1 - dx
        step = _reach(dx, dz)
        gap = product.mean(-2, keepdim=True)
        after = (product * (1 + step * dx) * (1 + step * dz)).mean(-2, keepdim=True)
        target = (after / gap) ** 3 * gap - product * dx * dz
        dx = torch.cholesky_solve(target / x - slope, factor) / x
        dz = target / product - 1 - dx
        step = 0.995 * _reach(dx, dz)
        moves = open_ & (failed == 0)[..., None, None]
        x = torch.where(moves, x + step * dx * x, x)
        z = torch.where(moves, z + step * dz * z, z)
    return x.squeeze(-1) * scale


def _reach(*changes: Tensor) -> Tensor:
    """Return the largest step up to 1 that keeps all values from changing sign, from relative changes `[..., K, 1]`."""
    least = torch.minimum(*changes).amin(-2, keepdim=True)
    return -1 / least.clamp(max=-1.0)


def _nonnegative_pair(matrix: Tensor, linear: Tensor) -> Tensor:
    """Solve two unknowns by their cases: both positive, the first alone, the second alone, none."""
    (c1, c2), q = linear.unbind(-1), matrix[..., 0, 1]
    sign = torch.ones_like(q).copysign(q)
    rest = 1 - q.abs()  # exact where |q| is near 1, as 1 − q² is not
    both = torch.stack([sign * c2 - c1 - rest * (sign * c2), sign * c1 - c2 - rest * (sign * c1)], -1)
    both = both / (rest * (2 - rest)).unsqueeze(-1)
    first, second = (-linear).clamp(min=0.0).unbind(-1)
    alone = c2 + q * first >= 0  # the second stays at 0
    single = torch.stack([masked(first, alone), masked(second, ~alone)], -1)
    return torch.where((both > 0).all(-1, keepdim=True), both, single)
