"""Convex problems in K unknowns: solved in float64, by a bounded number of operations, without waiting for a device."""

import torch
from torch import Tensor

from recmtl.balance.backward import masked, on_host

LARGEST = 32  # unknowns
ENUMERATED = 8  # unknowns up to which all sets of those that are not 0 are tried
_ITERATIONS = 30
_FAIR_ITERATIONS = 40
_NEGLIGIBLE = 1e-14  # part of the largest x
_TOLERANCE = 1e-14


def nonnegative_quadratic(matrix: Tensor, linear: Tensor) -> Tensor:
    """Return the x ≥ 0 that minimizes ½·xᵀQx + cᵀx, by a predictor-corrector interior-point method.

    Mehrotra, "On the implementation of a primal-dual interior point method", SIAM Journal on Optimization 1992. On a
    CPU it stops once all problems are solved, after 8 to 15 iterations; elsewhere it takes all 30, each of which
    factors one matrix. A problem that is solved no longer moves. One or two unknowns have a closed form;
    up to 8, all sets of unknowns that are not 0 are tried in one batch.

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
    if linear.shape[-1] <= ENUMERATED:
        return _best_of_sets(matrix, linear / scale) * scale
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


def fair_shares(matrix: Tensor, target: Tensor, power: float) -> Tensor:
    """Return the x > 0 with x_kᵖ·(Qx)_k = t_k for every k, by Newton's method on x and Qx in logarithms.

    For p = 1 and t = 1 it maximizes Σ_k log x_k − ½·xᵀQx; other p are the same for power means. No x solves it if Q
    is singular and Qx = 0 for an x ≥ 0; so the elements of Q off the diagonal are multiplied by 1 − 1e-8. On a CPU it
    stops once all problems are solved, after 4 to 12 iterations; elsewhere it takes all 40.

    The equations hold within 1e-9 of t_k if Q is well-conditioned, and within 1e-4 if it is not, but for x_k below
    1e-13 of the largest. With powers below 0.5 and t that differ by more than about 1e4, 40 iterations can be too few.

    Args:
        matrix: Positive semidefinite matrices Q with ones on the diagonal.
        target: The positive numbers t.
        power: The positive exponent p.

    Shape:
        - matrix: float64 `[..., K, K]`.
        - target: float64 `[..., K]`.
        - output: float64 `[..., K]`.

    Example:
        >>> import torch
        >>> fair_shares(torch.eye(3).double(), torch.tensor([1.0, 4.0, 9.0]).double(), power=1.0)
        tensor([1., 2., 3.], dtype=torch.float64)
    """
    if target.shape[-1] == 1:
        return target ** (1 / (1 + power))
    unit = torch.eye(target.shape[-1], dtype=target.dtype, device=target.device)
    matrix = torch.lerp(matrix, unit, 1e-8)
    t = target.unsqueeze(-1)  # columns from here on, [..., K, 1]
    log = t.log()
    x = (t / matrix.abs().sum(-1, keepdim=True)) ** (1 / (1 + power))
    z = t / x**power  # Qx, once it is solved
    for _ in range(_FAIR_ITERATIONS):
        product = matrix @ x
        missing = log - power * x.log() - z.log()  # 0 but for steps that were cut
        largest, off = x.amax(-2, keepdim=True), z - product
        counts = x > _NEGLIGIBLE * largest
        error = masked((off.abs() - 1e-14 * largest).clamp(min=0.0) / z + missing.abs(), counts)
        open_ = error.amax(-2, keepdim=True) > 1e-12
        if on_host(x) and not bool(open_.any()):
            break
        factor, failed = torch.linalg.cholesky_ex(torch.addcmul(matrix, unit, power * z / x))
        dx = torch.cholesky_solve(torch.addcmul(off, z, missing), factor) / x  # in parts of x
        dz = missing - power * dx
        step = _reach(masked(dx / 0.95, counts), masked(dz / 0.95, counts))
        moves = open_ & (failed == 0)[..., None, None]
        x = torch.where(moves, x + x * (step * dx).clamp(min=-0.95), x)
        z = torch.where(moves, z + z * (step * dz).clamp(min=-0.95), z)
    return x.squeeze(-1)


def _reach(*changes: Tensor) -> Tensor:
    """Return the largest step up to 1 that keeps all values from changing sign, from relative changes `[..., K, 1]`."""
    least = torch.minimum(*changes).amin(-2, keepdim=True)
    return -1 / least.clamp(max=-1.0)


def _best_of_sets(matrix: Tensor, linear: Tensor) -> Tensor:
    """Try every set of unknowns that are not 0; the conditions of the minimum hold for one of them."""
    sets = all_sets(linear)  # [S, K]
    factor, failed = factors_of_sets(matrix, sets)
    side = masked(-linear.unsqueeze(-2), sets).unsqueeze(-1)  # [..., S, K, 1]
    found = torch.cholesky_solve(side, factor).squeeze(-1)
    slope = found @ matrix + linear.unsqueeze(-2)
    violation = -torch.where(sets, found, slope).amin(-1) / (1 + found.abs().amax(-1))
    best = masked(violation, failed == 0, torch.inf).argmin(-1)[..., None, None]
    return found.gather(-2, best.expand(*best.shape[:-1], found.shape[-1])).squeeze(-2).clamp(min=0.0)


def all_sets(like: Tensor) -> Tensor:
    """Return every set of K unknowns, for `[..., K]`, as bool `[2ᴷ, K]`; the first is empty."""
    tasks = like.shape[-1]
    numbers = torch.arange(2**tasks, device=like.device).unsqueeze(1)
    return (numbers >> torch.arange(tasks, device=like.device)) % 2 == 1


def factors_of_sets(matrix: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factors `[..., S, K, K]` with the unknowns of each set alone, the rest decoupled.

    The second tensor is not 0, `[..., S]`, where a matrix is not positive definite.
    """
    unit = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    both = sets.unsqueeze(-1) & sets.unsqueeze(-2)
    factor, failed = torch.linalg.cholesky_ex(torch.where(both, matrix.unsqueeze(-3), unit))
    return factor, failed


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
